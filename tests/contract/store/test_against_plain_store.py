"""Random histories: a store answers every call as the plain model of it does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from contract.store.places import PLACES
from contract.store.plain_store import PlainStore
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fedfleet.errors import FedFleetError
from fedfleet.store.protocols import RunState

RUNS = st.sampled_from(["run-1", "run-1", "run-2"])
STATES = st.sampled_from([*[RunState.QUEUED, RunState.RUNNING] * 4, *RunState])
MODELS = {"run-1": "digits", "run-2": "digits"}
ROUNDS = st.integers(0, 3)
DATA = st.sampled_from([b"", b"one", b"two", b"three"])
ALIASES = st.sampled_from(["latest", "production"])


class Histories(RuleBasedStateMachine):
    """Calls both, compares both."""

    implementation = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.place = PLACES[self.implementation](self.folder)
        self.store = self.place.open()
        self.plain = PlainStore()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def both(self, call: Callable[[Any], Any]) -> Any:
        found, wanted = outcome(call, self.store), outcome(call, self.plain)
        assert found == wanted
        return found

    @initialize(data=st.lists(DATA, unique=True, min_size=2), versions=st.integers(0, 3))
    def begin(self, data: list[bytes], versions: int) -> None:
        self.create_run("run-1")
        for each in data:
            self.put(each)
        for number in range(versions):
            self.add(1, data[number % 2], ["production"] if number == 1 else [])

    @rule(run_id=RUNS)
    def create_run(self, run_id: str) -> None:
        run = a_run(run_id, model=MODELS[run_id])
        self.both(lambda s: s.journal.create_run(run, an_entry(run_id)))

    @rule(run_id=RUNS, state=STATES)
    def set_run_state(self, run_id: str, state: RunState) -> None:
        entry = an_entry(run_id, "state", at_s=300.0)
        self.both(lambda s: s.journal.set_run_state(run_id, state, entry, code="C", reason="r"))

    @rule(run_id=RUNS, round=ROUNDS)
    def append(self, run_id: str, round: int) -> None:
        self.both(lambda s: s.journal.append(an_entry(run_id, round=round)))

    @rule(run_id=RUNS, round=ROUNDS, assignment=st.sampled_from("ab"), data=DATA)
    def accept_update(self, run_id: str, round: int, assignment: str, data: bytes) -> None:
        update = an_update(data, run_id=run_id, round=round, assignment_id=assignment)
        self.both(lambda s: s.journal.accept_update(update, an_entry(run_id, "update")))

    @rule(
        run_id=RUNS,
        ahead=st.sampled_from([1, 1, 1, 0, 2]),
        round_ahead=st.sampled_from([1, 1, 1, 0, 2]),
        data=DATA,
        memory=st.none() | DATA,
        aliases=st.lists(ALIASES, unique=True),
    )
    def commit_round(
        self,
        run_id: str,
        ahead: int,
        round_ahead: int,
        data: bytes,
        memory: bytes | None,
        aliases: list[str],
    ) -> None:
        model = MODELS[run_id]
        run = self.plain._runs.get(run_id)
        version = a_version(
            len(self.plain.versions(model)) + ahead,
            data,
            model=model,
            run_id=run_id,
            round=(run.round if run else 0) + round_ahead,
        )
        commit = a_commit(
            version,
            aliases=tuple(aliases),
            memory_digest="" if memory is None else digest_of(memory),
        )
        self.both(lambda s: s.commit_round(commit))

    @precondition(lambda self: self.plain.models())
    @rule(alias=ALIASES, number=st.integers(0, 3), expected=st.none() | st.integers(0, 2))
    def set_alias(self, alias: str, number: int, expected: int | None) -> None:
        self.both(lambda s: s.registry.set_alias("digits", alias, number, expected))

    @rule(ahead=st.sampled_from([1, 1, 1, 0, 2]), data=DATA, aliases=st.lists(ALIASES, unique=True))
    def add(self, ahead: int, data: bytes, aliases: list[str]) -> None:
        version = an_import(len(self.plain.versions("digits")) + ahead, data, model="digits")
        self.both(lambda s: s.registry.add(version, tuple(aliases)))

    @precondition(lambda self: self.plain.models())
    @rule(number=st.sampled_from([1, 1, 2, 2, 3, 4, 0]), at_s=st.sampled_from([7.0, 8.25]))
    def retire(self, number: int, at_s: float) -> None:
        self.both(lambda s: s.registry.retire("digits", number, at_s))

    @rule(before=st.none() | st.integers(0, 5), limit=st.none() | st.integers(0, 3))
    def versions(self, before: int | None, limit: int | None) -> None:
        self.both(lambda s: s.registry.versions("digits", before, limit))

    @rule(data=DATA)
    def put(self, data: bytes) -> None:
        self.both(lambda s: s.blobs.put(data))

    @rule(data=DATA, cut=st.integers(0, 5))
    def upload(self, data: bytes, cut: int) -> None:
        for part in (data[:cut], data):
            writer = self.store.blobs.writer(digest_of(data), len(data), "key")
            writer.write(part[writer.offset_bytes :])
            if part == data:
                writer.commit()
            writer.close()
        self.plain.put(data)

    @rule(data=DATA)
    def delete(self, data: bytes) -> None:
        self.both(lambda s: s.blobs.delete(digest_of(data)))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.place.open()

    @invariant()
    def tells_the_same(self) -> None:
        self.both(lambda s: (s.journal.runs(), s.registry.models(), s.registry.events()))
        self.both(lambda s: (s.registry.versions("digits"), s.registry.aliases("digits")))
        for run_id in MODELS:
            self.both(lambda s, r=run_id: s.journal.entries(r))
            self.both(lambda s, r=run_id: s.journal.memory_digest(r))
            self.both(lambda s, r=run_id: [s.journal.updates(r, round) for round in range(4)])
        for digest in map(digest_of, (b"", b"one", b"two", b"three")):
            self.both(lambda s, d=digest: s.blobs.size(d))
            self.both(lambda s, d=digest: s.blobs.read(d))

    @invariant()
    def keeps_what_is_named(self) -> None:
        registry = self.store.registry
        named = {alias.number for alias in registry.aliases("digits").values()}
        for version in registry.versions("digits"):
            if version.number in named or version.number == registry.newest_number("digits"):
                assert version.retired_at_s is None
            if version.retired_at_s is None:
                assert digest_of(self.store.blobs.read(version.digest)) == version.digest


def outcome(call: Callable[[Any], Any], store: Any) -> Any:
    try:
        return call(store)
    except FedFleetError as error:
        return error.code


@pytest.mark.parametrize("implementation", sorted(PLACES))
def test_store_answers_as_the_plain_model(implementation: str) -> None:
    machine = type("Machine", (Histories,), {"implementation": implementation})

    run_state_machine_as_test(
        machine, settings=settings(max_examples=30, stateful_step_count=40, deadline=None)
    )
