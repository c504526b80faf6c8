"""Where a rollback goes, by the events of a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.builders import an_import
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.store.alias_history import numbers_of, version_before
from fedfleet.store.protocols import RegistryEvent
from fedfleet.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path) as store:
        for number in range(1, 8):
            data = b"%d" % number
            store.blobs.put(data)
            store.registry.add(an_import(number, data))
        yield store


def name(store: SqliteStore, *numbers: int) -> None:
    for number in numbers:
        store.registry.set_alias("old", "production", number)


@pytest.mark.parametrize(
    ("named", "path"),
    [
        ((), []),
        ((3,), [3]),
        ((1, 2, 5), [1, 2, 5]),
        ((1, 1, 2, 2), [1, 2]),
        ((1, 2, 5, 2), [1, 2]),  # a way back
        ((1, 2, 5, 1), [1]),
        ((1, 2, 5, 2, 6), [1, 2, 6]),
        ((1, 2, 1, 2), [1, 2]),
    ],
)
def test_path_of_an_alias_is_without_what_was_undone(
    store: SqliteStore, named: tuple[int, ...], path: list[int]
) -> None:
    name(store, *named)
    store.registry.set_alias("old", "candidate", 7)

    assert numbers_of(store.registry, "old", "production") == path


def test_rollbacks_lead_to_the_first_version_and_no_further(store: SqliteStore) -> None:
    name(store, 1, 3, 4, 6)

    visited = []
    while (before := version_before(store.registry, "old", "production")) is not None:
        visited.append(before.number)
        name(store, before.number)

    assert visited == [4, 3, 1]


def test_rollback_passes_over_what_is_retired(store: SqliteStore) -> None:
    name(store, 1, 3, 4)
    store.registry.retire("old", 3, 50.5)

    before = version_before(store.registry, "old", "production")

    assert before is not None
    assert before.number == 1
    store.registry.retire("old", 1, 50.5)
    assert version_before(store.registry, "old", "production") is None


class Told:
    """A registry of which only the events are asked for, three at a time."""

    def __init__(self, numbers: list[int]) -> None:
        self._events = [
            RegistryEvent(event_id=i, kind="alias", model="m", number=n, alias="a")
            for i, n in enumerate(numbers, 1)
        ]

    def events(self, after_id: int) -> list[RegistryEvent]:
        return self._events[after_id : after_id + 3]


@settings(max_examples=200)
@given(st.lists(st.integers(1, 5)))
def test_path_ends_with_what_the_alias_names_and_repeats_nothing(numbers: list[int]) -> None:
    path = numbers_of(Told(numbers), "m", "a")  # type: ignore[arg-type]

    assert path[-1:] == numbers[-1:]
    assert len(set(path)) == len(path)
    assert set(path) <= set(numbers)
