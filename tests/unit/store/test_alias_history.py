"""Where a rollback goes, by the events of a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from contract.store.builders import an_import
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.store.alias_history import AliasPaths, numbers_of, version_before
from fedfleet.store.protocols import RegistryEvent, VersionRecord
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

    def move(self, number: int, alias: str) -> None:
        event_id = len(self._events) + 1
        self._events.append(
            RegistryEvent(event_id=event_id, kind="alias", model="m", number=number, alias=alias)
        )

    def version(self, model: str, number: int) -> VersionRecord:
        return replace(an_import(number), retired_at_s=1.5 if number in (1, 2) else None)

    def events(self, after_id: int) -> list[RegistryEvent]:
        return self._events[after_id : after_id + 3]


@settings(max_examples=200)
@given(st.lists(st.integers(1, 5)))
def test_path_ends_with_what_the_alias_names_and_repeats_nothing(numbers: list[int]) -> None:
    path = numbers_of(Told(numbers), "m", "a")  # type: ignore[arg-type]

    assert path[-1:] == numbers[-1:]
    assert len(set(path)) == len(path)
    assert set(path) <= set(numbers)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "latest"]), st.integers(1, 5)), max_size=20),
    st.integers(0, 20),
)
def test_paths_that_are_kept_up_say_what_the_events_say(
    moves: list[tuple[str, int]], looked_at: int
) -> None:
    told = Told([])
    paths = AliasPaths(told)  # type: ignore[arg-type]
    for count, (alias, number) in enumerate(moves, 1):
        told.move(number, alias)
        if count == looked_at:
            paths.needed("m")
    retired = {1, 2}

    for alias in ("a", "b"):
        named = {number for name, number in moves if name == alias}
        for number in range(1, 6):
            assert paths.has_named("m", alias, number) == (number in named)
    expected = set[int]()
    for alias in ("a", "b"):
        path = numbers_of(told, "m", alias)  # type: ignore[arg-type]
        expected |= set(path[-1:])
        expected |= set([number for number in path[:-1] if number not in retired][-1:])
    # What another alias names is not retired, whatever the list here says.
    assert paths.needed("m") >= expected - retired
    assert paths.needed("m") & {3, 4, 5} == expected & {3, 4, 5}
    assert paths.needed("other") == set()
    assert not paths.has_named("m", "latest", 3)


def test_only_new_events_are_read_again(store: SqliteStore, monkeypatch) -> None:
    name(store, 1, 2)
    paths, asked = AliasPaths(store.registry), []
    events = store.registry.events
    monkeypatch.setattr(
        store.registry, "events", lambda after_id: asked.append(after_id) or events(after_id)
    )
    assert paths.needed("old") == {1, 2}
    last = events()[-1].event_id
    asked.clear()
    name(store, 5)

    assert paths.needed("old") == {2, 5}
    assert min(asked) == last
