"""The embedded store: a SQLite database beside files, in one state folder."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from fedfleet.errors import Conflict
from fedfleet.store.blob_files import BlobFiles
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.durable import sync_folder
from fedfleet.store.lease import LASTS_S, Lease, owned
from fedfleet.store.protocols import RoundCommit, RunRecord, VersionRecord, check_alias
from fedfleet.store.refusals import no_blob
from fedfleet.store.sqlite_access import SqliteAccess
from fedfleet.store.sqlite_audit import SqliteAudit
from fedfleet.store.sqlite_database import Database
from fedfleet.store.sqlite_journal import SqliteJournal, insert_entry, open_run
from fedfleet.store.sqlite_lease import SqliteLeases
from fedfleet.store.sqlite_registry import SqliteRegistry, add_version

# What must not lose its blob: a version that is not retired; the update of a round that is not
# committed yet and the memory of the last round, as long as their run goes on.
_NEEDED = """
    SELECT 'version ' || number || ' of model ' || model FROM versions
        WHERE digest = :digest AND retired_at_s IS NULL
    UNION ALL
    SELECT 'an update of run ' || runs.run_id FROM updates
        JOIN runs ON runs.run_id = updates.run_id
        WHERE updates.digest = :digest AND updates.round > runs.round
            AND runs.state IN ('queued', 'running')
    UNION ALL
    SELECT 'the memory of run ' || run_id FROM runs
        WHERE memory_digest = :digest AND state IN ('queued', 'running')
    LIMIT 1"""


class SqliteStore:
    """Keeps the promises of ``Store`` in a state folder, which is made where there is none.

    Other processes may open the same folder at the same time.

    Args:
        busy_timeout_s: how long to wait for another process's transaction.

    Raises:
        StoreUnavailable: the folder or the database in it cannot be used.
        StoreFull: no room.
        StateInUse: an older release works in the folder; see ``Database``.
    """

    def __init__(self, folder: Path, *, busy_timeout_s: float = 5.0) -> None:
        with disk_errors():
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(folder.parent)
        self._folder = folder
        self.database = Database(folder / "fedfleet.db", busy_timeout_s=busy_timeout_s)
        try:
            self.blobs = BlobFiles(folder, self._unneeded)
            self.blobs.drop_stale_partials(time.time())
        except BaseException:
            self.database.close()
            raise
        self.journal = SqliteJournal(self.database, self._holds)
        self.registry = SqliteRegistry(self.database, self.blobs)
        self.access = SqliteAccess(self.database)
        self.audit = SqliteAudit(self.database)

    def commit_round(self, commit: RoundCommit) -> VersionRecord:
        for alias in commit.aliases:
            check_alias(alias)
        with self.database.transaction() as connection:
            _check_next(connection, commit)
            add_version(connection, self.blobs, commit.version, commit.aliases)
            if commit.memory_digest and not self._holds(commit.memory_digest):
                raise no_blob(commit.memory_digest, "round")
            connection.execute(
                "UPDATE runs SET round = ?, memory_digest = ?, updated_at_s = ? WHERE run_id = ?",
                (commit.round, commit.memory_digest, commit.entry.at_s, commit.run_id),
            )
            insert_entry(connection, commit.entry)
        return commit.version

    def own(
        self,
        holder: str = "",
        *,
        lasts_s: float = LASTS_S,
        wait_s: float | None = 0.0,
        given_up: threading.Event | None = None,
    ) -> AbstractContextManager[Lease]:
        leases = SqliteLeases(self.database, self._folder)
        return owned(leases, "the store's folder", holder, lasts_s, wait_s, given_up)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> SqliteStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _holds(self, digest: str) -> bool:
        return self.blobs.size(digest) is not None

    @contextmanager
    def _unneeded(self, digest: str) -> Iterator[None]:
        # The write transaction keeps everyone from storing a new reference until the file is gone.
        with self.database.transaction() as connection:
            row = connection.execute(_NEEDED, {"digest": digest}).fetchone()
            if row is not None:
                raise Conflict(f"blob {digest} is needed by {row[0]}: it stays")
            yield


def _check_next(connection: sqlite3.Connection, commit: RoundCommit) -> None:
    run = open_run(connection, commit.run_id)
    if not _is_next(connection, run, commit.round):
        raise Conflict(
            f"round {commit.round} of run {run.run_id!r} cannot be committed: "
            f"its last committed round is {run.round}"
        )


def _is_next(connection: sqlite3.Connection, run: RunRecord, round: int) -> bool:
    if not round == run.round == 0:
        return round == run.round + 1
    initial = connection.execute(
        "SELECT 1 FROM versions WHERE model = ? AND run_id = ?", (run.model, run.run_id)
    )
    return initial.fetchone() is None
