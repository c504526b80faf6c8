from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_import
from contract.store.places import Place

from fedfleet.errors import Conflict, InvalidInput, NotFound
from fedfleet.store.protocols import AliasRecord, RegistryEvent, Store, resolve
from fedfleet.store.records import from_text
from fedfleet.store.redis import RedisStore
from fedfleet.store.sqlite import SqliteStore
from fedfleet.store.version_pages import each_version


def commit_versions(store: Store, count: int, model: str = "digits", run_id: str = "run-1") -> None:
    store.journal.create_run(a_run(run_id, model=model), an_entry(run_id))
    store.blobs.put(b"weights")
    for number in range(1, count + 1):
        version = a_version(number, model=model, run_id=run_id)
        store.commit_round(a_commit(version, aliases=()))


def heard(events: list[RegistryEvent]) -> list[tuple[str, str, int, str]]:
    return [(event.kind, event.model, event.number, event.alias) for event in events]


def test_empty_registry_knows_nothing(store: Store) -> None:
    assert store.registry.models() == []
    assert store.registry.versions("digits") == []
    assert store.registry.aliases("digits") == {}
    assert store.registry.events() == []
    with pytest.raises(NotFound, match="digits") as caught:
        store.registry.version("digits", 1)
    assert caught.value.code == "NOT_FOUND"


def test_versions_come_newest_first_by_model(store: Store) -> None:
    commit_versions(store, 3)
    commit_versions(store, 1, "cifar", "run-2")

    assert store.registry.models() == ["cifar", "digits"]
    assert store.registry.newest_number("digits") == 3
    assert store.registry.newest_number("unknown") == 0
    assert store.registry.versions("digits") == [a_version(n) for n in (3, 2, 1)]
    assert store.registry.version("digits", 2) == a_version(2)
    assert store.registry.version("digits", 2).schema.digest == a_version().schema.digest
    with pytest.raises(NotFound, match="no version 4"):
        store.registry.version("digits", 4)


def numbers_of(store: Store, *asked: int | None) -> list[int]:
    return [version.number for version in store.registry.versions("digits", *asked)]


def test_versions_come_in_pages(store: Store) -> None:
    commit_versions(store, 7)
    store.registry.retire("digits", 4, 50.5)

    assert numbers_of(store, None, 3) == [7, 6, 5]
    assert numbers_of(store, 5) == [4, 3, 2, 1]
    assert numbers_of(store, 5, 2) == [4, 3]
    assert store.registry.versions("digits", 5, 1) == [replace(a_version(4), retired_at_s=50.5)]
    assert numbers_of(store, 2**63, 99) == [7, 6, 5, 4, 3, 2, 1]
    for nothing in ((1, None), (0, 5), (-3, None), (8, 0), (None, -1)):
        assert numbers_of(store, *nothing) == []
    assert store.registry.versions("unknown", 5, 1) == []


def metrics_of(number: int) -> dict[str, Any]:
    """Of a round with sixty workers and a hundred classes: five kilobytes."""
    workers = [f"pi-{worker:03d}" for worker in range(60)]
    return {
        "updates": 60,
        "workers": workers,
        "traffic": {worker: {"up": 100_000 + number, "down": 200_000} for worker in workers},
        "train": {"loss": 0.5, "accuracy": 0.75},
        "evaluation": {
            "samples": 10_000,
            "correct": 9000,
            "loss_sum": 2500.0,
            "class_samples": [100] * 100,
            "class_correct": [90] * 100,
            "class_predicted": [101] * 100,
        },
    }


@contextmanager
def not_durable(store: Store) -> Iterator[None]:
    """Writes of this store need not wait for the disk: there are thousands."""
    if isinstance(store, SqliteStore):
        store.database.rows("PRAGMA synchronous = OFF")
        yield
        return
    assert isinstance(store, RedisStore)
    server = store._server  # which the tests after this one share
    server.ask("CONFIG", "SET", "appendfsync", "no")
    try:
        yield
    finally:
        server.ask("CONFIG", "SET", "appendfsync", "always")


def test_long_list_is_read_as_far_as_it_is_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.blobs.put(b"weights")
    with not_durable(store):
        for number in range(1, 2001):
            store.registry.add(an_import(number, metrics=metrics_of(number)))
    parsed = []

    def counting(text: str | bytes) -> dict[str, Any]:
        parsed.append(len(text))
        return from_text(text)

    for module in ("sqlite_registry", "redis_registry"):
        monkeypatch.setattr(f"fedfleet.store.{module}.from_text", counting)
    page = store.registry.versions("old", 1501, 20)
    assert [version.number for version in page] == list(range(1500, 1480, -1))
    assert page[0] == an_import(1500, metrics=metrics_of(1500))
    assert sum(parsed) < 20 * 8000
    assert store.registry.versions("old", limit=1)[0].number == 2000

    whole = list(each_version(store.registry, "old"))
    assert [version.number for version in whole] == list(range(2000, 0, -1))
    assert whole == store.registry.versions("old")
    assert list(each_version(store.registry, "old", 1900, 250)) == whole[101:351]


def test_set_alias_counts_revisions(store: Store) -> None:
    commit_versions(store, 2)

    first = store.registry.set_alias("digits", "production", 1)
    second = store.registry.set_alias("digits", "production", 2)
    third = store.registry.set_alias("digits", "production", 2)
    store.registry.set_alias("digits", "candidate", 2)

    assert [record.revision for record in (first, second, third)] == [1, 2, 3]
    wanted = AliasRecord(model="digits", alias="production", number=2, revision=3)
    assert third == wanted
    assert store.registry.aliases("digits")["production"] == wanted
    assert list(store.registry.aliases("digits")) == ["candidate", "production"]


def test_set_alias_compares_the_revision(store: Store) -> None:
    commit_versions(store, 2)

    store.registry.set_alias("digits", "production", 1, expected_revision=0)
    with pytest.raises(Conflict, match="revision 1, not 0") as caught:
        store.registry.set_alias("digits", "production", 2, expected_revision=0)
    moved = store.registry.set_alias("digits", "production", 2, expected_revision=1)

    assert caught.value.code == "CONFLICT"
    assert moved.revision == 2
    assert [event.alias for event in store.registry.events()][2:] == ["production"] * 2


@pytest.mark.parametrize(("model", "number"), [("digits", 3), ("digits", 0), ("nobody", 1)])
def test_set_alias_refuses_a_version_that_is_not_there(
    store: Store, model: str, number: int
) -> None:
    commit_versions(store, 2)

    with pytest.raises(NotFound) as caught:
        store.registry.set_alias(model, "production", number)

    assert caught.value.code == "NOT_FOUND"
    assert store.registry.aliases(model) == {}
    assert len(store.registry.events()) == 2


@pytest.mark.parametrize("alias", ["", "7", "007"])
def test_set_alias_refuses_what_resolve_would_take_for_a_number(store: Store, alias: str) -> None:
    commit_versions(store, 1)

    with pytest.raises(InvalidInput, match="alias") as caught:
        store.registry.set_alias("digits", alias, 1)

    assert caught.value.code == "INVALID_INPUT"
    assert store.registry.aliases("digits") == {}


def test_events_tell_a_follower_what_it_missed(store: Store) -> None:
    commit_versions(store, 2)
    seen = store.registry.events()
    store.registry.set_alias("digits", "production", 2)
    commit_versions(store, 1, "cifar", "run-2")

    assert heard(seen) == [("version", "digits", 1, ""), ("version", "digits", 2, "")]
    missed = store.registry.events(seen[-1].event_id)
    assert heard(missed) == [
        ("alias", "digits", 2, "production"),
        ("version", "cifar", 1, ""),
    ]
    assert store.registry.events(seen[-1].event_id, limit=1) == missed[:1]
    assert store.registry.events(missed[-1].event_id) == []
    ids = [event.event_id for event in seen + missed]
    assert ids == sorted(set(ids))


def test_resolve_takes_numbers_and_aliases(store: Store) -> None:
    commit_versions(store, 2)
    store.registry.set_alias("digits", "production", 1)

    assert resolve(store.registry, "digits", "2") == a_version(2)
    assert resolve(store.registry, "digits", "production") == a_version(1)
    for name in ("3", "candidate", "", "\u00b2", "9" * 5000):
        with pytest.raises(NotFound) as caught:
            resolve(store.registry, "digits", name)
        assert caught.value.code == "NOT_FOUND"


def test_registry_is_followed_through_another_handle(place: Place) -> None:
    with place.open() as writing, place.open() as reading:
        assert reading.registry.events() == []
        commit_versions(writing, 1)

        assert heard(reading.registry.events()) == [("version", "digits", 1, "")]
        assert reading.blobs.read(reading.registry.version("digits", 1).digest) == b"weights"


def test_resolve_of_another_model_names_those_that_there_are(store: Store) -> None:
    with pytest.raises(NotFound, match=r"no model 'digits'; there is none yet"):
        resolve(store.registry, "digits", "3")
    commit_versions(store, 1)

    for name in ("3", "production"):
        with pytest.raises(NotFound, match=r"no model 'digit'; there are: digits$"):
            resolve(store.registry, "digit", name)
    with pytest.raises(NotFound, match="has no version 3"):
        resolve(store.registry, "digits", "3")


def test_events_say_when(store: Store) -> None:
    before_s = time.time()
    commit_versions(store, 2)
    store.registry.set_alias("digits", "production", 2)
    store.registry.retire("digits", 1, 50.5)

    times_s = [event.at_s for event in store.registry.events()]

    assert len(times_s) == 4  # two versions, an alias, one that is retired
    assert before_s <= min(times_s) <= max(times_s) <= time.time()
