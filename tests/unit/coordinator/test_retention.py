from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.builders import an_import
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import publish

from fedfleet.store.alias_history import version_before
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_coordinator.holds import Holds
from fedfleet_coordinator.retention import Retention, retirable, retire_all


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as store:
        yield store


def kept(store: Store, model: str = "digits") -> list[int]:
    return [v.number for v in store.registry.versions(model) if v.retired_at_s is None]


def test_each_commit_retires_what_is_old_and_not_needed(store: Store) -> None:
    retention = Retention(store, 2, Holds())
    retired = []
    for seed in range(1, 8):
        version = publish(store, seed)
        needed = {store.registry.version("digits", 1).digest} if seed < 6 else set()
        if seed == 4:
            store.registry.set_alias("digits", "production", 2)
        retired.append(retention.after_commit("digits", version.number, needed))

    assert retired == [[], [], [], [], [3], [1, 4], [5]]
    assert kept(store) == [7, 6, 2]
    store.registry.set_alias("digits", "production", 7)
    # Another process, which knows nothing of that; 2 is where a rollback goes.
    assert Retention(store, 2, Holds()).after_commit("digits", 7) == []
    store.registry.set_alias("digits", "production", 2)
    store.registry.set_alias("digits", "production", 6)
    publish(store, 8)
    assert Retention(store, 1, Holds()).after_commit("digits", 8) == [7]
    assert kept(store) == [8, 6, 2]


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_rollback_goes_to_stays_until_the_alias_goes_on(store: Store, by_hand: bool) -> None:
    """Of an alias that was moved by hand: no gate has set ``previous``."""
    retention = Retention(store, 1, Holds())

    def commit(*numbers: int) -> None:
        for number in numbers:
            data = b"%d" % number
            store.blobs.put(data)
            store.registry.add(an_import(number, data, model="digits"), ("latest",))
            if not by_hand:
                retention.after_commit("digits", number)
        if by_hand:
            retire_all(store, retirable(store, "digits", 1, Holds()), Holds())

    commit(1)
    for named, numbers in ((1, (2, 3)), (3, (4, 5)), (5, (6, 7))):
        store.registry.set_alias("digits", "production", named)
        commit(*numbers)

    assert kept(store) == [7, 5, 3]
    before = version_before(store.registry, "digits", "production")
    assert before is not None
    assert before.number == 3


def test_keeping_all_looks_at_nothing(store: Store) -> None:
    for seed in range(1, 4):
        publish(store, seed)

    assert Retention(store, 0, Holds()).after_commit("digits", 3) == []
    assert kept(store) == [3, 2, 1]


def test_bytes_that_a_killed_process_left_are_deleted_by_the_next(store: Store) -> None:
    for seed in range(1, 4):
        publish(store, seed)
    old = store.registry.version("digits", 1)
    data = store.blobs.read(old.digest)
    store.registry.retire("digits", 1, 50.5)
    store.blobs.put(data)

    assert Retention(store, 2, Holds()).after_commit("digits", 3) == []

    assert store.blobs.size(old.digest) is None


def test_retiring_by_hand_deletes_what_a_killed_process_left(store: Store) -> None:
    for count, data in enumerate((b"1", b"shared", b"3", b"4"), 1):
        store.blobs.put(data)
        store.registry.add(an_import(count, data))
    model = store.registry.models()[0]
    twin = an_import(1, b"shared", model="twin")
    store.registry.add(twin)
    for number, data in ((1, b"1"), (2, b"shared")):
        store.registry.retire(model, number, 50.5)
        store.blobs.put(data)
    before = store.registry.events()

    said = retirable(store, model, 4, Holds())
    done = retire_all(store, said, Holds())

    assert [version.number for version in said] == [1]
    assert done == said
    assert store.blobs.size(said[0].digest) is None
    assert store.blobs.size(twin.digest) is not None
    assert retirable(store, model, 4, Holds()) == []
    assert store.registry.events() == before
    assert retire_all(store, [store.registry.version(model, 2)], Holds()) == []


def test_held_bytes_are_not_retired_until_they_are_let_go(store: Store) -> None:
    holds = Holds()
    retention = Retention(store, 1, holds)
    versions = [publish(store, seed) for seed in (1, 2, 3)]
    holds.hold("import 1", [versions[0].digest])

    assert retention.after_commit("digits", 3) == [2]
    assert [v.number for v in retirable(store, "digits", 1, holds)] == []
    assert retire_all(store, versions[:1], holds) == []
    holds.let_go("import 1")

    assert retention.after_commit("digits", 3) == [1]


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keep=st.integers(1, 4),
    named=st.lists(st.integers(1, 9), max_size=4),
    number=st.integers(0, 10**6),
)
def test_what_is_retired_by_hand_is_what_was_said_and_never_what_is_named(
    store: Store, keep: int, named: list[int], number: int
) -> None:
    model = f"m{number}-{keep}-{len(named)}"
    if store.registry.newest_number(model):
        return
    for count in range(1, 10):
        data = b"%d" % count
        store.blobs.put(data)
        store.registry.add(an_import(count, data, model=model))
    for index, target in enumerate(named):
        store.registry.set_alias(model, f"alias-{index}", target)

    said = retirable(store, model, keep, Holds())
    done = retire_all(store, said, Holds())

    assert done == said
    assert [v.number for v in said] == sorted({*range(1, 10 - keep)} - {*named})
    assert set(kept(store, model)) == {*range(10 - keep, 10), *named}
    assert retirable(store, model, keep, Holds()) == []
