"""One SQLite database file: its connection, its tables, its transactions, its errors."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedfleet.errors import FedFleetError, InvalidInput, StoreFull, StoreUnavailable
from fedfleet.store.disk_errors import disk_errors
from fedfleet.store.durable import sync_folder

SCHEMA_VERSION = 1

# The tables of version 1. AUTOINCREMENT: an id that was handed out is never reused.
_TABLES = (
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,
        recipe TEXT NOT NULL,
        state TEXT NOT NULL,
        rounds INTEGER NOT NULL,
        created_at_s REAL NOT NULL,
        updated_at_s REAL NOT NULL,
        round INTEGER NOT NULL,
        code TEXT NOT NULL,
        reason TEXT NOT NULL,
        memory_digest TEXT NOT NULL DEFAULT '')""",
    """CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL REFERENCES runs (run_id),
        round INTEGER NOT NULL,
        at_s REAL NOT NULL,
        kind TEXT NOT NULL,
        fields TEXT NOT NULL)""",
    "CREATE INDEX events_of_run ON events (run_id, id)",
    """CREATE TABLE updates (
        run_id TEXT NOT NULL REFERENCES runs (run_id),
        round INTEGER NOT NULL,
        assignment_id TEXT NOT NULL,
        worker_id TEXT NOT NULL,
        header TEXT NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        accepted_at_s REAL NOT NULL,
        PRIMARY KEY (run_id, round, assignment_id))""",
    "CREATE INDEX updates_of_blob ON updates (digest)",
    # Versions of a model nearly always share one schema: it is kept once.
    "CREATE TABLE schemas (digest TEXT PRIMARY KEY, params TEXT NOT NULL)",
    """CREATE TABLE versions (
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        schema_digest TEXT NOT NULL REFERENCES schemas (digest),
        run_id TEXT NOT NULL,
        round INTEGER NOT NULL,
        parent INTEGER,
        created_at_s REAL NOT NULL,
        card TEXT NOT NULL,
        metrics TEXT NOT NULL,
        PRIMARY KEY (model, number))""",
    "CREATE INDEX versions_of_blob ON versions (digest)",
    """CREATE TABLE aliases (
        model TEXT NOT NULL,
        alias TEXT NOT NULL,
        number INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (model, alias),
        FOREIGN KEY (model, number) REFERENCES versions (model, number))""",
    """CREATE TABLE registry_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        model TEXT NOT NULL,
        number INTEGER NOT NULL,
        alias TEXT NOT NULL)""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# Of version 1 too, but younger than its first stores.
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS updates_of_assignment ON updates (run_id, assignment_id, round)",
)


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
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0) -> None:
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        # Two processes that turn WAL on at once can fail with "locked" whatever the busy timeout.
        with disk_errors(), path.with_name("opening.lock").open("w") as gate, _sqlite_errors():
            fcntl.flock(gate, fcntl.LOCK_EX)
            connection = sqlite3.connect(
                path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection)
                sync_folder(path.parent)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the one write transaction: durable when the body returns, undone when it raises."""
        with self._lock, _sqlite_errors():
            connection = self._held()
            connection.execute("BEGIN IMMEDIATE")
            try:
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


def _prepare(connection: sqlite3.Connection) -> None:
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
    if found == 0:
        for statement in _TABLES:
            connection.execute(statement)
    for statement in _INDEXES:
        connection.execute(statement)
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
