from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, digest_of
from contract.store.places import Place

from fedfleet.errors import Conflict, FedFleetError, InvalidInput, NotFound
from fedfleet.store.protocols import RoundCommit, RunState, Store

MEMORY = digest_of(b"memory")


@pytest.fixture(autouse=True)
def running(store: Store) -> None:
    store.journal.create_run(a_run(state=RunState.RUNNING), an_entry())
    for data in (b"weights", b"memory"):
        store.blobs.put(data)


def everything(store: Store) -> tuple[Any, ...]:
    return (
        store.journal.runs(),
        store.journal.entries("run-1"),
        store.journal.memory_digest("run-1"),
        store.registry.versions("digits"),
        store.registry.aliases("digits"),
        store.registry.events(),
    )


def test_commit_round_writes_all_of_it(store: Store, place: Place) -> None:
    commit = a_commit(a_version(), memory_digest=MEMORY, aliases=("latest", "candidate"))

    assert store.commit_round(commit) == commit.version

    with place.open() as again:
        for seen in (store, again):
            assert seen.registry.versions("digits") == [commit.version]
            assert seen.journal.run("run-1") == a_run(
                state=RunState.RUNNING, round=1, updated_at_s=104.0
            )
            assert seen.journal.memory_digest("run-1") == MEMORY
            aliases = seen.registry.aliases("digits")
            assert {name: record.number for name, record in aliases.items()} == {
                "candidate": 1,
                "latest": 1,
            }
            assert seen.journal.entries("run-1")[-1].kind == "round_committed"
            assert [(event.kind, event.alias) for event in seen.registry.events()] == [
                ("version", ""),
                ("alias", "latest"),
                ("alias", "candidate"),
            ]


def test_commit_round_moves_aliases_and_memory_on(store: Store) -> None:
    store.commit_round(a_commit(a_version(1), memory_digest=MEMORY))
    store.commit_round(a_commit(a_version(2)))

    assert store.registry.aliases("digits")["latest"].number == 2
    assert store.registry.aliases("digits")["latest"].revision == 2
    assert store.journal.memory_digest("run-1") == ""
    assert store.journal.run("run-1").round == 2


def test_commit_round_takes_an_initial_version_once(store: Store) -> None:
    initial = a_commit(a_version(1, round=0))
    store.commit_round(initial)

    for round in (0, -1):
        with pytest.raises(Conflict):
            store.commit_round(a_commit(a_version(2, round=round)))
    store.commit_round(a_commit(a_version(2, round=1)))

    assert store.journal.run("run-1").round == 1
    with pytest.raises(Conflict):
        store.commit_round(a_commit(a_version(3, round=0)))


def test_two_runs_number_the_versions_of_one_model_together(store: Store) -> None:
    store.journal.create_run(a_run("run-2"), an_entry("run-2"))
    store.commit_round(a_commit(a_version(1)))

    store.commit_round(a_commit(a_version(2, run_id="run-2", round=1)))

    assert [version.run_id for version in store.registry.versions("digits")] == ["run-2", "run-1"]


BAD: dict[str, tuple[RoundCommit, type[FedFleetError]]] = {
    "same number again": (a_commit(a_version(1, round=2)), Conflict),
    "number left out": (a_commit(a_version(3, round=2)), Conflict),
    "same round again": (a_commit(a_version(2, round=1)), Conflict),
    "round left out": (a_commit(a_version(2, round=3)), Conflict),
    "no such run": (a_commit(a_version(2, run_id="nobody")), NotFound),
    "no such blob": (a_commit(a_version(2, b"elsewhere")), NotFound),
    "no such memory": (a_commit(a_version(2), memory_digest=digest_of(b"else")), NotFound),
    "alias is a number": (a_commit(a_version(2), aliases=("latest", "1")), InvalidInput),
}


@pytest.mark.parametrize("name", BAD)
def test_commit_round_refuses_and_writes_nothing(store: Store, name: str) -> None:
    commit, error = BAD[name]
    store.commit_round(a_commit(a_version(1)))
    before = everything(store)

    with pytest.raises(error) as caught:
        store.commit_round(commit)

    assert caught.value.code == error.code
    assert everything(store) == before
    store.commit_round(a_commit(a_version(2)))


def test_commit_round_refuses_a_run_that_has_ended(store: Store) -> None:
    store.journal.set_run_state("run-1", RunState.STOPPED, an_entry(kind="stopped"))
    before = everything(store)

    with pytest.raises(Conflict, match="stopped"):
        store.commit_round(a_commit(a_version(1)))

    assert everything(store) == before


def test_commit_round_that_cannot_be_written_leaves_nothing(store: Store) -> None:
    before = everything(store)
    entry = replace(an_entry(), fields={"not": object()})

    with pytest.raises(TypeError):
        store.commit_round(a_commit(a_version(1), entry=entry))

    assert everything(store) == before
    store.commit_round(a_commit(a_version(1)))
