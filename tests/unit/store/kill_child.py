"""Kills itself just before the n-th SQL statement of a few calls; prints which calls returned.

Usage: python kill_child.py FOLDER N
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from contract.store.builders import (
    a_commit,
    a_run,
    a_version,
    an_entry,
    an_import,
    an_update,
    digest_of,
)

from fedfleet.store.protocols import RunState
from fedfleet.store.sqlite import SqliteStore

MOVED = ("a", "b", "c")


def die_at(store: SqliteStore, statement: int) -> None:
    left = statement

    def count(sql: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with store.database.transaction() as connection:
        connection.execute("PRAGMA cache_size = 1")  # spill early: dirty pages reach the file
        left += 1  # this transaction's COMMIT
        connection.set_trace_callback(count)


def main(folder: Path, statement: int) -> None:
    commit = a_commit(a_version(), memory_digest=digest_of(b"memory"), aliases=("a", "b"))
    with SqliteStore(folder) as store:
        for data in (b"payload", b"weights", b"memory", b"added"):
            store.blobs.put(data)
        die_at(store, statement)
        for name, call in (
            ("created", lambda: store.journal.create_run(a_run(), an_entry())),
            ("accepted", lambda: store.journal.accept_update(an_update(), an_entry(kind="update"))),
            ("committed", lambda: store.commit_round(commit)),
            ("aliased", lambda: store.registry.set_alias("digits", "c", 1, 0)),
            ("ended", lambda: store.journal.set_run_state("run-1", RunState.STOPPED, an_entry())),
            ("added", lambda: store.registry.add(an_import(2, b"added", model="digits"), MOVED)),
            ("retired", lambda: store.registry.retire("digits", 1, 50.5)),
        ):
            call()
            sys.stdout.write(name + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
