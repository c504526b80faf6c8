"""Versions that are added by hand, and versions whose bytes are let go of."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from contract.store.builders import (
    a_commit,
    a_run,
    a_version,
    an_entry,
    an_import,
    an_update,
    digest_of,
)
from contract.store.places import Place

from fedfleet.errors import Conflict, FedFleetError, InvalidInput, NotFound
from fedfleet.store.protocols import RegistryEvent, RunState, Store, manifest_of, resolve


def data_of(number: int) -> bytes:
    return b"weights %d" % number


def add_versions(store: Store, count: int) -> None:
    """Versions of model ``old`` with bytes of their own."""
    for number in range(1, count + 1):
        store.blobs.put(data_of(number))
        store.registry.add(an_import(number, data_of(number)))


def run_of(store: Store, rounds: int) -> None:
    """A run that goes on, and its versions."""
    store.journal.create_run(a_run(state=RunState.RUNNING), an_entry())
    for number in range(1, rounds + 1):
        store.blobs.put(data_of(number))
        version = a_version(number, data_of(number))
        store.commit_round(a_commit(version, aliases=()))


def held(store: Store, number: int) -> bool:
    return store.blobs.size(digest_of(data_of(number))) is not None


def heard(store: Store) -> list[tuple[str, int, str]]:
    return [(event.kind, event.number, event.alias) for event in store.registry.events()]


# Add


def test_add_stores_announces_and_names(store: Store, place: Place) -> None:
    store.blobs.put(b"weights")

    added = store.registry.add(an_import(1), ("latest", "candidate"))

    assert added == an_import(1)
    with place.open() as other:
        for seen in (store, other):
            assert seen.registry.models() == ["old"]
            assert seen.registry.versions("old") == [an_import(1)]
            assert seen.registry.version("old", 1).lineage == an_import(1).lineage
            assert resolve(seen.registry, "old", "candidate") == an_import(1)
            assert seen.registry.events() == [
                RegistryEvent(event_id=1, kind="version", model="old", number=1),
                RegistryEvent(event_id=2, kind="alias", model="old", number=1, alias="latest"),
                RegistryEvent(event_id=3, kind="alias", model="old", number=1, alias="candidate"),
            ]
    with pytest.raises(Conflict, match="version 1 of model old"):
        store.blobs.delete(an_import(1).digest)


BAD: dict[str, tuple[Callable[[Store], object], type[FedFleetError]]] = {
    "same number": (lambda s: s.registry.add(an_import(1)), Conflict),
    "a gap": (lambda s: s.registry.add(an_import(3)), Conflict),
    "no blob": (lambda s: s.registry.add(an_import(2, b"elsewhere")), NotFound),
    "a number for an alias": (lambda s: s.registry.add(an_import(2), ("b", "2")), InvalidInput),
}


@pytest.mark.parametrize("name", BAD)
def test_add_refuses_and_writes_nothing(store: Store, name: str) -> None:
    call, error = BAD[name]
    store.blobs.put(b"weights")
    store.registry.add(an_import(1))

    with pytest.raises(error) as caught:
        call(store)

    assert caught.value.code == error.code
    assert store.registry.versions("old") == [an_import(1)]
    assert store.registry.aliases("old") == {}
    assert heard(store) == [("version", 1, "")]


def test_add_and_a_run_number_the_versions_of_one_model_together(store: Store) -> None:
    run_of(store, 1)
    store.blobs.put(b"weights")

    store.registry.add(an_import(2, model="digits"))
    store.commit_round(a_commit(a_version(3, round=2), aliases=()))

    assert store.registry.newest_number("digits") == 3
    assert store.journal.run("run-1").round == 2


def test_add_before_the_first_round_leaves_a_run_its_initial_version(store: Store) -> None:
    store.blobs.put(b"weights")
    store.registry.add(an_import(1, model="digits"))
    store.journal.create_run(a_run(), an_entry())

    store.commit_round(a_commit(a_version(2, round=0)))

    with pytest.raises(Conflict):
        store.commit_round(a_commit(a_version(3, round=0)))


# Retire


def test_retire_keeps_the_record_and_lets_go_of_the_bytes(store: Store, place: Place) -> None:
    add_versions(store, 3)

    retired = store.registry.retire("old", 2, 50.5)

    assert retired == replace(an_import(2, data_of(2)), retired_at_s=50.5)
    with place.open() as other:
        for seen in (store, other):
            assert seen.registry.version("old", 2) == retired
            assert [v.retired_at_s for v in seen.registry.versions("old")] == [None, 50.5, None]
            assert resolve(seen.registry, "old", "2") == retired
            assert [held(seen, number) for number in (1, 2, 3)] == [True, False, True]
            with pytest.raises(NotFound):
                seen.blobs.read(retired.digest)
    assert heard(store)[3:] == [("retired", 2, "")]
    assert store.registry.newest_number("old") == 3


def test_retire_again_changes_nothing(store: Store) -> None:
    add_versions(store, 2)
    first = store.registry.retire("old", 1, 50.5)
    events = heard(store)

    assert store.registry.retire("old", 1, 60.0) == first
    assert heard(store) == events


def test_retire_again_lets_go_of_bytes_that_came_back(store: Store) -> None:
    """A process that stored them was killed before a version named them."""
    add_versions(store, 3)
    store.registry.retire("old", 1, 50.5)
    store.registry.retire("old", 2, 50.5)
    store.blobs.put(data_of(1))
    store.blobs.put(data_of(2))
    store.registry.add(an_import(1, data_of(2), model="other"))

    for number in (1, 2):
        assert store.registry.retire("old", number, 60.0).retired_at_s == 50.5

    assert [held(store, number) for number in (1, 2, 3)] == [False, True, True]


def test_a_retired_version_gets_no_alias(store: Store) -> None:
    add_versions(store, 2)
    store.registry.set_alias("old", "production", 2)
    store.registry.retire("old", 1, 50.5)

    for expected in (None, 1):
        with pytest.raises(Conflict, match="retired") as caught:
            store.registry.set_alias("old", "production", 1, expected)
        assert caught.value.code == "CONFLICT"

    assert store.registry.aliases("old")["production"].number == 2


def test_an_aliased_version_is_never_retired(store: Store) -> None:
    add_versions(store, 3)
    store.registry.set_alias("old", "production", 1)

    with pytest.raises(Conflict, match="'production' points at it"):
        store.registry.retire("old", 1, 50.5)
    assert held(store, 1)

    store.registry.set_alias("old", "production", 2)
    store.registry.retire("old", 1, 51.5)
    assert not held(store, 1)


def test_the_newest_version_is_never_retired(store: Store) -> None:
    add_versions(store, 10)

    with pytest.raises(Conflict, match="newest"):
        store.registry.retire("old", 10, 50.5)

    assert held(store, 10)


@pytest.mark.parametrize("number", [0, 3])
def test_retire_of_an_unknown_version(store: Store, number: int) -> None:
    add_versions(store, 2)

    for model in ("old", "nobody"):
        with pytest.raises(NotFound) as caught:
            store.registry.retire(model, number, 50.5)
        assert caught.value.code == "NOT_FOUND"


def test_what_a_run_goes_on_from_is_not_retired(store: Store) -> None:
    run_of(store, 2)
    store.blobs.put(b"weights")
    store.registry.add(an_import(3, model="digits"))

    with pytest.raises(Conflict, match="run run-1 goes on"):
        store.registry.retire("digits", 2, 50.5)
    store.registry.retire("digits", 1, 50.5)
    assert [held(store, number) for number in (1, 2)] == [False, True]

    store.journal.set_run_state("run-1", RunState.COMPLETED, an_entry())
    store.registry.retire("digits", 2, 51.5)
    assert not held(store, 2)


def test_bytes_that_two_versions_share_stay_until_both_are_retired(store: Store) -> None:
    store.blobs.put(b"shared")
    add_versions(store, 1)
    for number in (2, 3):
        store.registry.add(an_import(number, b"shared"))
    store.registry.add(an_import(1, b"shared", model="other"))
    store.registry.add(an_import(4, data_of(1)))
    store.registry.add(an_import(2, data_of(1), model="other"))

    store.registry.retire("old", 2, 50.5)
    store.registry.retire("old", 3, 50.5)
    assert store.blobs.read(digest_of(b"shared")) == b"shared"
    store.registry.retire("other", 1, 50.5)
    assert store.blobs.size(digest_of(b"shared")) is None
    assert held(store, 1)


def test_bytes_that_a_run_needs_otherwise_stay(store: Store) -> None:
    add_versions(store, 4)
    store.journal.create_run(a_run(), an_entry())
    update = an_update(data_of(1), size_bytes=len(data_of(1)))
    store.journal.accept_update(update, an_entry())
    store.blobs.put(b"weights")
    commit = a_commit(a_version(1, round=0), memory_digest=digest_of(data_of(2)))
    store.commit_round(commit)

    for number in (1, 2, 3):
        store.registry.retire("old", number, 50.5)

    assert [held(store, number) for number in (1, 2, 3)] == [True, True, False]


def test_bytes_of_a_retired_version_can_be_deleted_and_come_back(store: Store) -> None:
    add_versions(store, 2)
    store.registry.retire("old", 1, 50.5)

    store.blobs.put(data_of(1))
    store.registry.add(an_import(3, data_of(1)))

    assert store.registry.version("old", 1).retired_at_s == 50.5
    with pytest.raises(Conflict):
        store.blobs.delete(digest_of(data_of(1)))


def test_large_bytes_go_whole(store: Store) -> None:
    data = bytes(3_000_000)
    store.blobs.put(data)
    store.registry.add(an_import(1, data))
    add = an_import(2)
    store.blobs.put(b"weights")
    store.registry.add(add)

    store.registry.retire("old", 1, 50.5)

    assert store.blobs.size(digest_of(data)) is None
    store.blobs.put(data)
    assert store.blobs.read(digest_of(data)) == data


def test_set_alias_and_retire_of_one_version_never_both_succeed(place: Place) -> None:
    """Whichever comes first, an alias names bytes that are there."""
    with place.open() as first, place.open() as second:
        add_versions(first, 21)
        for number in range(1, 21):
            barrier = Barrier(2)

            def attempt(call: Callable[[], object], barrier: Barrier = barrier) -> bool:
                barrier.wait()
                try:
                    call()
                except Conflict:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                named = pool.submit(
                    attempt, lambda n=number: first.registry.set_alias("old", "production", n)
                )
                gone = pool.submit(attempt, lambda n=number: second.registry.retire("old", n, 1.5))
                assert {named.result(), gone.result()} == {True, False}
            assert held(first, number) == named.result()


def test_signature_does_not_hang_on_retirement_or_an_empty_lineage(store: Store) -> None:
    add_versions(store, 2)
    manifest = manifest_of(store.registry.version("old", 1))

    store.registry.retire("old", 1, 50.5)

    assert manifest_of(store.registry.version("old", 1)) == manifest
    assert b"lineage" in manifest
    assert b"lineage" not in manifest_of(a_version())
