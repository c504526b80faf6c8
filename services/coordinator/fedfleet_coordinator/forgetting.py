"""Deletes what a run left behind whose coordinator was killed between its end and its cleaning."""

from __future__ import annotations

from contextlib import suppress

from fedfleet.errors import Conflict
from fedfleet.store.protocols import Store


def forget_ended_run(store: Store) -> None:
    """Delete the blobs of the run that ended last, its versions aside; blocks.

    Call while no run is active: a run is cleaned before the next one starts, so only the last one
    can have been missed, and nobody else needs the same bytes. What is gone already is no error.
    """
    ended = [run for run in store.journal.runs() if run.state.final]
    if not ended:
        return
    run = max(ended, key=lambda one: one.updated_at_s)
    digests = {store.journal.memory_digest(run.run_id)} - {""}
    rounds = {run.round}
    for entry in store.journal.entries(run.run_id):
        digests.update(entry.fields.get("blobs", ()))
        rounds.update((entry.round, entry.round + 1))
    for round in rounds:
        digests.update(update.digest for update in store.journal.updates(run.run_id, round))
    for digest in digests:
        with suppress(Conflict):  # a version's
            store.blobs.delete(digest)
