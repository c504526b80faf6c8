"""One SQLite database file: its connection, its transactions and their fence, its errors."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from fedfleet.errors import FedFleetError, InvalidInput, LeaseLost, StoreFull, StoreUnavailable
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.durable import sync_folder
from fedfleet.store.owner import hold_folder
from fedfleet.store.sqlite_tables import SCHEMA_VERSION, STEPS


class Database:
    """The database of one state folder.

    All threads share one connection behind one lock. SQLite lets a single writer in anyway and a
    write is one fsync long, reads take microseconds, and nothing is left open when a thread of a
    pool ends, as it would be with a connection per thread. Other processes open their own.

    Args:
        path: created where there is none; its folder must exist.
        busy_timeout_s: how long to wait for another process's transaction.

    Raises:
        StoreUnavailable: locked, damaged, or written by a newer release.
        StoreFull: no room for the tables.
        StateInUse: an older release's coordinator works on tables that would be changed.

    Attributes:
        fence: the lease's token that every write needs; None where the store was not claimed.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0) -> None:
        self.fence: int | None = None
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        # Two processes that turn WAL on at once can fail with "locked" whatever the busy timeout.
        with disk_errors(), path.with_name("opening.lock").open("w") as gate, _sqlite_errors():
            fcntl.flock(gate, fcntl.LOCK_EX)
            connection = sqlite3.connect(
                path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, path.parent)
                sync_folder(path.parent)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    @contextmanager
    def transaction(self, *, fenced: bool = True) -> Iterator[sqlite3.Connection]:
        """Hold the one write transaction: durable when the body returns, undone when it raises.

        Args:
            fenced: whether it needs the lease where this store has claimed it.

        Raises:
            LeaseLost: another store has claimed it meanwhile; the body did not run.
        """
        with self._lock, _sqlite_errors():
            connection = self._held()
            connection.execute("BEGIN IMMEDIATE")
            try:
                if fenced and self.fence is not None:
                    beat(connection, self.fence)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite may have rolled back by itself
                    connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of one SELECT, a consistent view of what is committed."""
        with self._lock, _sqlite_errors():
            return self._held().execute(sql, values).fetchall()

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _held(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable("the store is closed")
        return self._connection


def beat(connection: sqlite3.Connection, token: int) -> None:
    """Check in this transaction that the lease is a token's, and say that its owner lives.

    One statement does both, so that an owner that writes a lot cannot fail to renew its lease.

    Raises:
        LeaseLost: it is not.
    """
    cursor = connection.execute("UPDATE lease SET beat = beat + 1 WHERE token = ?", (token,))
    if cursor.rowcount != 1:
        raise LeaseLost(
            "another coordinator owns the store now, nothing was written: this one must stop"
        )


def _prepare(connection: sqlite3.Connection, folder: Path) -> None:
    connection.row_factory = sqlite3.Row
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreUnavailable(
            f"the state folder's file system allows journal mode {mode!r} only, WAL is needed: "
            "put the folder on a local disk"
        )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"the store was written by a newer release (its schema is {found}, this release knows "
            f"{SCHEMA_VERSION}): upgrade fedfleet or use another state folder"
        )
    # A coordinator of version 1 owns by this lock and would see no lease.
    what = "the store, which an older release has written,"
    with hold_folder(folder, what) if found == 1 else nullcontext():
        for step in STEPS[found:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a fault of ours, not of the disk
    except sqlite3.DatabaseError as error:
        raise _store_error(error) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise InvalidInput(f"a value cannot be stored: {error}") from error


def _store_error(error: sqlite3.DatabaseError) -> FedFleetError:
    # By SQLite's fixed texts: Python 3.10 has no error codes on its exceptions.
    text = str(error)
    if "disk is full" in text:
        return StoreFull("the store's disk is full, nothing was written: make room, then try again")
    if "locked" in text:
        return StoreUnavailable("the store is locked by another process: try again")
    return StoreUnavailable(f"the store's database cannot be used: {text}")
