"""Deletes what a run left behind whose coordinator was killed between its end and its cleaning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from fedfleet.errors import Conflict
from fedfleet.rounds import events as ev
from fedfleet.store.protocols import Entry, RunRecord, Store

STARTED = ev.kind_of(ev.RunStarted(at_s=0.0))


def forget_ended_run(store: Store) -> None:
    """Delete the blobs of the run that was active last, its versions aside; blocks.

    Call while no run is active: a run is cleaned before the next one starts, so only the last one
    can have been missed, and nobody else needs the same bytes. What is gone already is no error.
    """
    ended = [run for run in store.journal.runs() if run.state.final]
    for run in sorted(ended, key=lambda one: one.updated_at_s, reverse=True):
        entries = store.journal.entries(run.run_id)
        if any(entry.kind == STARTED for entry in entries):
            _forget(store, run, entries)
            return


def _forget(store: Store, run: RunRecord, entries: Sequence[Entry]) -> None:
    digests = {store.journal.memory_digest(run.run_id)} - {""}
    rounds = {run.round}
    for entry in entries:
        digests.update(entry.fields.get("blobs", ()))
        rounds.update((entry.round, entry.round + 1))
    for round in rounds:
        digests.update(update.digest for update in store.journal.updates(run.run_id, round))
    for digest in digests:
        with suppress(Conflict):  # a version's
            store.blobs.delete(digest)
