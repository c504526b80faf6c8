"""The journal in SQLite: runs, their entries, accepted updates."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace

from fedfleet.errors import AlreadyExists, Conflict, NotFound
from fedfleet.store.protocols import Entry, RunRecord, RunState, UpdateRecord
from fedfleet.store.records import from_text, to_text
from fedfleet.store.sqlite_database import Database

_RUN = (
    "SELECT run_id, model, recipe, state, rounds, created_at_s, updated_at_s, round, code, reason"
    " FROM runs"
)


_UPDATE = (
    "SELECT run_id, round, assignment_id, worker_id, header, digest, size_bytes, accepted_at_s"
    " FROM updates WHERE run_id = ?"
)


class SqliteJournal:
    """Keeps the promises of ``Journal``.

    Args:
        holds: whether the blob of a digest is stored.
    """

    def __init__(self, database: Database, holds: Callable[[str], bool]) -> None:
        self._database = database
        self._holds = holds

    def create_run(self, run: RunRecord, entry: Entry) -> None:
        with self._database.transaction() as connection:
            if connection.execute(f"{_RUN} WHERE run_id = ?", (run.run_id,)).fetchone():
                raise AlreadyExists(f"there is a run {run.run_id!r} already: choose another id")
            connection.execute(
                "INSERT INTO runs (run_id, model, recipe, state, rounds, created_at_s,"
                " updated_at_s, round, code, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run.run_id,
                    run.model,
                    run.recipe,
                    run.state.value,
                    run.rounds,
                    run.created_at_s,
                    run.updated_at_s,
                    run.round,
                    run.code,
                    run.reason,
                ),
            )
            insert_entry(connection, entry)

    def run(self, run_id: str) -> RunRecord:
        rows = self._database.rows(f"{_RUN} WHERE run_id = ?", run_id)
        if not rows:
            raise _no_run(run_id)
        return _run(rows[0])

    def runs(self) -> list[RunRecord]:
        return [_run(row) for row in self._database.rows(f"{_RUN} ORDER BY id")]

    def set_run_state(
        self, run_id: str, state: RunState, entry: Entry, *, code: str = "", reason: str = ""
    ) -> RunRecord:
        with self._database.transaction() as connection:
            open_run(connection, run_id)
            connection.execute(
                "UPDATE runs SET state = ?, code = ?, reason = ?, updated_at_s = ?"
                " WHERE run_id = ?",
                (state.value, code, reason, entry.at_s, run_id),
            )
            insert_entry(connection, entry)
            return find_run(connection, run_id)

    def append(self, entry: Entry) -> Entry:
        with self._database.transaction() as connection:
            find_run(connection, entry.run_id)
            return insert_entry(connection, entry)

    def entries(self, run_id: str, *, after_id: int = 0, limit: int | None = None) -> list[Entry]:
        rows = self._database.rows(
            "SELECT id, run_id, round, at_s, kind, fields FROM events"
            " WHERE run_id = ? AND id > ? ORDER BY id LIMIT ?",
            run_id,
            after_id,
            -1 if limit is None else limit,
        )
        return [_entry(row) for row in rows]

    def accept_update(self, update: UpdateRecord, entry: Entry) -> bool:
        with self._database.transaction() as connection:
            find_run(connection, update.run_id)
            stored = connection.execute(
                "SELECT digest FROM updates WHERE run_id = ? AND round = ? AND assignment_id = ?",
                (update.run_id, update.round, update.assignment_id),
            ).fetchone()
            if stored is not None:
                if stored["digest"] != update.digest:
                    raise Conflict(
                        f"assignment {update.assignment_id!r} has an update with another payload"
                    )
                return False
            if not self._holds(update.digest):
                raise NotFound(f"the update's payload {update.digest!r} is not stored: send it")
            _insert_update(connection, update)
            insert_entry(connection, entry)
            return True

    def updates(self, run_id: str, round: int) -> list[UpdateRecord]:
        rows = self._database.rows(f"{_UPDATE} AND round = ? ORDER BY assignment_id", run_id, round)
        return [_update(row) for row in rows]

    def update(self, run_id: str, round: int, assignment_id: str) -> UpdateRecord | None:
        return self.find_update(run_id, range(round, round + 1), assignment_id)

    def find_update(self, run_id: str, rounds: range, assignment_id: str) -> UpdateRecord | None:
        rows = self._database.rows(
            f"{_UPDATE} AND assignment_id = ? AND round >= ? AND round < ? ORDER BY round LIMIT 1",
            run_id,
            assignment_id,
            rounds.start,
            rounds.stop,
        )
        return _update(rows[0]) if rows else None

    def memory_digest(self, run_id: str) -> str:
        rows = self._database.rows("SELECT memory_digest FROM runs WHERE run_id = ?", run_id)
        if not rows:
            raise _no_run(run_id)
        digest: str = rows[0]["memory_digest"]
        return digest


def find_run(connection: sqlite3.Connection, run_id: str) -> RunRecord:
    """The run as this transaction sees it; raises NotFound."""
    row = connection.execute(f"{_RUN} WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        raise _no_run(run_id)
    return _run(row)


def open_run(connection: sqlite3.Connection, run_id: str) -> RunRecord:
    """The run if it goes on; raises NotFound, or Conflict when it has ended."""
    run = find_run(connection, run_id)
    if run.state.final:
        raise Conflict(f"run {run_id!r} is {run.state.value}: that is final")
    return run


def insert_entry(connection: sqlite3.Connection, entry: Entry) -> Entry:
    """Store an entry in this transaction and return it with its id."""
    cursor = connection.execute(
        "INSERT INTO events (run_id, round, at_s, kind, fields) VALUES (?, ?, ?, ?, ?)",
        (entry.run_id, entry.round, entry.at_s, entry.kind, to_text(entry.fields)),
    )
    assert cursor.lastrowid is not None
    return replace(entry, event_id=cursor.lastrowid)


def _insert_update(connection: sqlite3.Connection, update: UpdateRecord) -> None:
    connection.execute(
        "INSERT INTO updates (run_id, round, assignment_id, worker_id, header, digest, size_bytes,"
        " accepted_at_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            update.run_id,
            update.round,
            update.assignment_id,
            update.worker_id,
            to_text(update.header),
            update.digest,
            update.size_bytes,
            update.accepted_at_s,
        ),
    )


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id!r}")


def _run(row: sqlite3.Row) -> RunRecord:
    return RunRecord(**{**dict(row), "state": RunState(row["state"])})


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        event_id=row["id"],
        run_id=row["run_id"],
        round=row["round"],
        at_s=row["at_s"],
        kind=row["kind"],
        fields=from_text(row["fields"]),
    )


def _update(row: sqlite3.Row) -> UpdateRecord:
    return UpdateRecord(**{**dict(row), "header": from_text(row["header"])})
