"""The follower step by step, on a real store, with the time in the test's hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import publish

from fedfleet.errors import StoreUnavailable
from fedfleet.store.open import open_store
from fedfleet.store.protocols import RegistryEvent, Store, VersionRecord
from fedfleet_inference_api.follower import LONGEST_RETRY_S, Follower
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable, load_servable


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


class Bench:
    """A follower whose clock is moved by hand and whose loads are counted."""

    def __init__(self, store: Store, *, model: str = "", alias: str = "latest") -> None:
        self.store = store
        self.now_s = 100.0
        self.loads: list[int] = []
        self.follower = Follower(
            store.registry,
            self.load,
            Metrics(),
            model=model,
            alias=alias,
            poll_s=1.0,
            clock=lambda: self.now_s,
        )

    def load(self, record: VersionRecord, alias: str) -> Servable:
        self.loads.append(record.number)
        return load_servable(self.store.blobs, record, alias)

    def serves(self) -> int | None:
        self.follower.poll()
        current = self.follower.following.current
        return current.record.number if current else None


def test_follower_loads_only_the_newest_of_what_it_missed(store):
    for seed in range(5):
        publish(store, seed)
    bench = Bench(store)

    assert bench.serves() == 5
    assert bench.serves() == 5
    assert bench.loads == [5]


def test_follower_keeps_the_version_before(store):
    bench = Bench(store)
    publish(store, 1)
    bench.serves()
    publish(store, 2)

    assert bench.serves() == 2
    assert bench.follower.following.previous is not None
    assert bench.follower.following.previous.record.number == 1


def test_follower_ignores_versions_that_its_alias_does_not_name(store):
    bench = Bench(store, alias="production")
    publish(store, 1, aliases=("latest", "production"))
    assert bench.serves() == 1

    publish(store, 2)

    assert bench.serves() == 1
    assert bench.loads == [1]


def test_follower_tries_a_bad_version_again_ever_more_rarely(store):
    publish(store, 1, data=b"no safetensors")
    bench = Bench(store)
    tried_at_s = []
    for _ in range(200):
        before = len(bench.loads)
        assert bench.serves() is None
        if len(bench.loads) > before:
            tried_at_s.append(bench.now_s - 100)
        bench.now_s += 1

    assert tried_at_s == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert LONGEST_RETRY_S == 60
    assert (
        "digits version 1 could not be loaded: SCHEMA_MISMATCH" in bench.follower.following.failure
    )


def test_follower_takes_the_next_version_at_once_after_a_bad_one(store):
    publish(store, 1)
    bench = Bench(store)
    bench.serves()
    publish(store, 2, data=b"no safetensors")
    assert bench.serves() == 1
    publish(store, 3)

    assert bench.serves() == 3
    assert bench.follower.following.failure == ""
    assert bench.follower.following.previous.record.number == 1


def test_follower_forgets_a_failure_when_the_alias_goes_back(store):
    publish(store, 1)
    bench = Bench(store)
    bench.serves()
    publish(store, 2, data=b"no safetensors")
    bench.serves()
    store.registry.set_alias("digits", "latest", 1)

    assert bench.serves() == 1
    assert bench.follower.following.failure == ""
    assert bench.loads == [1, 2]


class Unreadable:
    """The registry of a store, out of reach while ``is_away``."""

    def __init__(self, store: Store) -> None:
        self._registry = store.registry
        self.is_away = True

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        if self.is_away:
            raise StoreUnavailable("the disk is away")
        return self._registry.events(after_id, limit)

    def __getattr__(self, name: str) -> object:
        return getattr(self._registry, name)


def test_follower_outlives_a_registry_that_is_away(store, caplog):
    publish(store, 1)
    bench = Bench(store)
    registry = Unreadable(store)
    bench.follower._registry = registry
    assert bench.serves() is None
    assert bench.serves() is None
    assert bench.follower.following.failure.startswith(
        "the registry cannot be read: STORE_UNAVAILABLE"
    )
    assert [record.message for record in caplog.records] == ["registry_unreadable"]

    registry.is_away = False

    assert bench.serves() == 1
    assert bench.follower.following.failure == ""
