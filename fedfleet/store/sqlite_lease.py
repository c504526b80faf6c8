"""The lease in SQLite: one row, and a lock by which the system tells that an owner has died."""

from __future__ import annotations

import fcntl
import io
import re
import sqlite3
from pathlib import Path

from fedfleet.errors import Conflict
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.lease import LeaseRecord
from fedfleet.store.sqlite_database import Database, beat

_LEASE = "SELECT token, holder, beat, lasts_s FROM lease"
_LOCK = re.compile(r"owner-([0-9]{1,18})\.lock")


class SqliteLeases:
    """Keeps the promises of ``Leases`` for one claim.

    The owner with token N holds a lock on ``owner-N.lock`` from before its claim commits until it
    gives the lease back or its process ends. A process that is stopped keeps the lock.

    Args:
        folder: the state folder.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._token = 0
        self._lock: io.FileIO | None = None

    def read(self) -> LeaseRecord:
        return _record(self._database.rows(_LEASE)[0])

    def is_dead(self, seen: LeaseRecord) -> bool:
        with disk_errors():
            try:
                file = io.FileIO(self._path(seen.token))
            except FileNotFoundError:
                return False  # given back meanwhile; or removed by hand, which proves nothing
            with file:
                # Shared: challengers that look at the same time do not take each other for it.
                return _locked(file, fcntl.LOCK_SH)

    def claim(self, seen: LeaseRecord, holder: str, lasts_s: float) -> LeaseRecord:
        taken = LeaseRecord(
            token=seen.token + 1, holder=holder, beat=seen.beat + 1, lasts_s=lasts_s
        )
        with disk_errors():
            self._remove_locks(seen.token)
            lock = io.FileIO(self._path(taken.token), "a")
        try:
            if not _locked(lock, fcntl.LOCK_EX):
                raise Conflict("another process is claiming the store right now")
            with self._database.transaction(fenced=False) as connection:
                if _record(connection.execute(_LEASE).fetchone()) != seen:
                    raise Conflict("the store's lease is not as it was seen")
                connection.execute(
                    "UPDATE lease SET token = :token, holder = :holder, beat = :beat,"
                    " lasts_s = :lasts_s",
                    vars(taken),
                )
        except BaseException:
            lock.close()
            raise
        self._database.fence = self._token = taken.token
        self._lock = lock
        return taken

    def renew(self) -> None:
        with self._database.transaction(fenced=False) as connection:
            beat(connection, self._token)

    def release(self) -> None:
        try:
            with self._database.transaction(fenced=False) as connection:
                cursor = connection.execute(
                    "UPDATE lease SET holder = '' WHERE token = ?", (self._token,)
                )
            if cursor.rowcount == 1:
                self._database.fence = None  # while it stays fenced, it can never write again
                with disk_errors():
                    self._path(self._token).unlink(missing_ok=True)
        finally:
            if self._lock is not None:
                self._lock.close()

    def _path(self, token: int) -> Path:
        return self._folder / f"owner-{token}.lock"

    def _remove_locks(self, before: int) -> None:
        # Tokens only grow, so nobody can come to own, or be asked after, by one of these files.
        for path in self._folder.iterdir():
            match = _LOCK.fullmatch(path.name)
            if match and int(match[1]) < before:
                path.unlink(missing_ok=True)


def _locked(file: io.FileIO, kind: int) -> bool:
    with disk_errors():
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _record(row: sqlite3.Row) -> LeaseRecord:
    return LeaseRecord(**dict(row))
