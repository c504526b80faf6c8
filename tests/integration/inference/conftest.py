from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serving import publish, serving, wait_served

from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path_factory.mktemp('shared')}") as opened:
        yield opened


@pytest.fixture(scope="module")
def client(shared_store) -> Iterator[httpx.Client]:
    """A service for the whole module; it serves version 1 of ``shared_store``."""
    version = publish(shared_store, seed=1)
    with serving(shared_store, max_body_bytes=200_000) as (service, connected):
        wait_served(service, version)
        yield connected
