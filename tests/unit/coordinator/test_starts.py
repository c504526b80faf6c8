from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from samples import SCHEMA, state, update

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.errors import StoreFull
from fedfleet.rounds.relay import relayed
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.types import ModelState, Update
from fedfleet.wire.weights import decode_state, encode_state
from fedfleet_coordinator.starts import Place, Starts

BASE, CLUSTER = state(seed=1), state(seed=2)
UPDATES = {key: update(trainable=np.full(9, i + 1.0)) for i, key in enumerate("abc")}


class Lanes(FedAvg):
    """Has one lane beside the run's own."""

    def lane_state(self, lane: str, base: ModelState, memory: object) -> ModelState:
        assert lane == "7"
        return CLUSTER


ALGORITHM = Lanes(FedAvgOptions())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as store:
        yield store


class Bench:
    """Starts with a journal that is a list."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.announced: list[tuple[Place, str]] = []
        self.opened: list[str] = []
        self.full = False
        self.starts = Starts(ALGORITHM, BASE, {}, store, self.open, self.announce)

    def open(self, assignment_id: str) -> Update:
        self.opened.append(assignment_id)
        return UPDATES[assignment_id]

    def announce(self, place: Place, digest: str) -> None:
        if self.full:
            raise StoreFull("no room")
        assert self.store.blobs.size(digest) is None, "stored before it was announced"
        self.announced.append((place, digest))


def test_start_is_the_relayed_state_whole(store: Store) -> None:
    bench = Bench(store)

    start = bench.starts.at("7", ("b", "a"))

    data = store.blobs.read(start.base_digest)
    expected = relayed(ALGORITHM, BASE, {}, "7", [UPDATES["b"], UPDATES["a"]])
    assert data == encode_state(expected)
    assert decode_state(SCHEMA, data).trainable.tobytes() == expected.trainable.tobytes()
    assert (start.base_bytes, start.deltas) == (len(data), ())
    assert start.base_digest == hashlib.sha256(data).hexdigest()


def test_start_is_announced_and_computed_once(store: Store) -> None:
    bench = Bench(store)

    first = bench.starts.at("", ["a"])
    again = bench.starts.at("", ("a",))

    assert again is first
    assert bench.opened == ["a"]
    assert bench.announced == [(("", ("a",)), first.base_digest)]


def test_starts_of_other_places_are_kept_apart_and_all_are_named(store: Store) -> None:
    bench = Bench(store)

    found = [
        bench.starts.at(lane, after).base_digest
        for lane, after in (("", ("a",)), ("", ("a", "b")), ("7", ()), ("7", ("a",)))
    ]

    assert len(set(found)) == 4
    assert bench.starts.digests == set(found)


def test_start_that_could_not_be_announced_is_not_stored(store: Store, tmp_path: Path) -> None:
    bench = Bench(store)
    bench.full = True
    with pytest.raises(StoreFull):
        bench.starts.at("7", ())

    assert bench.starts.digests == set()
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def test_coordinator_that_comes_back_gives_the_same_bytes(store: Store, tmp_path: Path) -> None:
    first = Bench(store).starts.at("7", ("c", "a"))
    store.blobs.delete(first.base_digest)

    assert Bench(store).starts.at("7", ("c", "a")) == first
