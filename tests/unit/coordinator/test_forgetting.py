"""A coordinator that was killed between a run's end and its cleaning cleans when it comes back."""

from __future__ import annotations

from pathlib import Path

from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update

from fedfleet.store.open import open_store
from fedfleet.store.protocols import RunState
from fedfleet_coordinator.forgetting import STARTED, forget_ended_run


def test_what_an_ended_run_left_behind_is_deleted_but_its_versions_stay(tmp_path: Path) -> None:
    with open_store(f"sqlite:{tmp_path / 'state'}") as store:
        weights, memory, ladder, payload = (
            store.blobs.put(data) for data in (b"weights", b"memory", b"ladder", b"payload")
        )
        store.journal.create_run(a_run(), an_entry())
        started = an_entry(kind=STARTED, round=0)
        store.journal.set_run_state("run-1", RunState.RUNNING, started)
        entry = an_entry(kind="round_committed", fields={"blobs": [ladder, weights]})
        store.commit_round(a_commit(a_version(), memory_digest=memory, entry=entry))
        late = an_update(b"payload", round=2, assignment_id="run-1/2/a")
        store.journal.accept_update(late, an_entry(round=2))
        store.journal.set_run_state("run-1", RunState.STOPPED, an_entry(round=2, at_s=200.0))

        # Stopped later, while it waited in the queue.
        store.journal.create_run(a_run("run-2"), an_entry("run-2"))
        store.journal.set_run_state("run-2", RunState.STOPPED, an_entry("run-2", at_s=300.0))
        forget_ended_run(store)

        assert store.blobs.size(weights) == len(b"weights")
        assert [store.blobs.size(digest) for digest in (memory, ladder, payload)] == [None] * 3


def test_without_an_ended_run_nothing_is_deleted(tmp_path: Path) -> None:
    with open_store(f"sqlite:{tmp_path / 'state'}") as store:
        blob = store.blobs.put(b"of a run that goes on")
        forget_ended_run(store)
        assert store.blobs.size(blob) is not None
