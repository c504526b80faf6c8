"""Every test of this folder runs over every store implementation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.places import PLACES, REDIS, Place

from fedfleet.store.protocols import Store


@pytest.fixture(scope="session", autouse=True)
def shared_servers() -> Iterator[None]:
    """Ends what the first test that needed it has started."""
    yield
    REDIS.end()


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store that may be opened any number of times, from this process and others."""
    return PLACES[request.param](tmp_path)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    with place.open() as store:
        yield store
