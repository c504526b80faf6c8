"""The registry in SQLite: versions, aliases, and the events that followers read."""

from __future__ import annotations

import sqlite3

from fedfleet.errors import Conflict, NotFound
from fedfleet.store.protocols import AliasRecord, RegistryEvent, VersionRecord, check_alias
from fedfleet.store.records import from_text, schema_from_text, schema_to_text, to_text
from fedfleet.store.sqlite_database import Database

_VERSION = (
    "SELECT versions.*, schemas.params FROM versions"
    " JOIN schemas ON schemas.digest = versions.schema_digest WHERE model = ?"
)
_ALIAS = "SELECT model, alias, number, revision FROM aliases WHERE model = ?"


class SqliteRegistry:
    """Keeps the promises of ``Registry``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def models(self) -> list[str]:
        rows = self._database.rows("SELECT DISTINCT model FROM versions ORDER BY model")
        return [row["model"] for row in rows]

    def versions(self, model: str) -> list[VersionRecord]:
        rows = self._database.rows(f"{_VERSION} ORDER BY number DESC", model)
        return [_version(row) for row in rows]

    def newest_number(self, model: str) -> int:
        sql = "SELECT COALESCE(MAX(number), 0) AS number FROM versions WHERE model = ?"
        number: int = self._database.rows(sql, model)[0]["number"]
        return number

    def version(self, model: str, number: int) -> VersionRecord:
        rows = self._database.rows(f"{_VERSION} AND number = ?", model, number)
        if not rows:
            raise _no_version(model, number)
        return _version(rows[0])

    def aliases(self, model: str) -> dict[str, AliasRecord]:
        rows = self._database.rows(f"{_ALIAS} ORDER BY alias", model)
        return {row["alias"]: AliasRecord(**dict(row)) for row in rows}

    def set_alias(
        self, model: str, alias: str, number: int, expected_revision: int | None = None
    ) -> AliasRecord:
        check_alias(alias)
        with self._database.transaction() as connection:
            if not connection.execute(f"{_VERSION} AND number = ?", (model, number)).fetchone():
                raise _no_version(model, number)
            return move_alias(connection, model, alias, number, expected_revision)

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        rows = self._database.rows(
            "SELECT id AS event_id, kind, model, number, alias FROM registry_events"
            " WHERE id > ? ORDER BY id LIMIT ?",
            after_id,
            limit,
        )
        return [RegistryEvent(**dict(row)) for row in rows]


def newest_number(connection: sqlite3.Connection, model: str) -> int:
    """The highest number of a model's versions, 0 where it has none."""
    row = connection.execute(
        "SELECT COALESCE(MAX(number), 0) FROM versions WHERE model = ?", (model,)
    ).fetchone()
    number: int = row[0]
    return number


def insert_version(connection: sqlite3.Connection, version: VersionRecord) -> None:
    """Store a version and announce it, in this transaction."""
    connection.execute(
        "INSERT OR IGNORE INTO schemas (digest, params) VALUES (?, ?)",
        (version.schema.digest, schema_to_text(version.schema)),
    )
    connection.execute(
        "INSERT INTO versions (model, number, digest, size_bytes, schema_digest, run_id, round,"
        " parent, created_at_s, card, metrics, signature)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            version.model,
            version.number,
            version.digest,
            version.size_bytes,
            version.schema.digest,
            version.run_id,
            version.round,
            version.parent,
            version.created_at_s,
            to_text(version.card),
            to_text(version.metrics),
            version.signature,
        ),
    )
    _announce(connection, "version", version.model, version.number)


def move_alias(
    connection: sqlite3.Connection, model: str, alias: str, number: int, expected: int | None = None
) -> AliasRecord:
    """Point an alias at a version that exists and announce it, in this transaction."""
    row = connection.execute(f"{_ALIAS} AND alias = ?", (model, alias)).fetchone()
    revision: int = row["revision"] if row else 0
    if expected is not None and expected != revision:
        state = "somebody else has set it" if revision else "it does not exist yet"
        raise Conflict(
            f"alias {alias!r} of model {model!r} is at revision {revision}, not {expected}: "
            f"{state}, look again"
        )
    connection.execute(
        "INSERT OR REPLACE INTO aliases (model, alias, number, revision) VALUES (?, ?, ?, ?)",
        (model, alias, number, revision + 1),
    )
    _announce(connection, "alias", model, number, alias)
    return AliasRecord(model=model, alias=alias, number=number, revision=revision + 1)


def _announce(
    connection: sqlite3.Connection, kind: str, model: str, number: int, alias: str = ""
) -> None:
    connection.execute(
        "INSERT INTO registry_events (kind, model, number, alias) VALUES (?, ?, ?, ?)",
        (kind, model, number, alias),
    )


def _no_version(model: str, number: int) -> NotFound:
    return NotFound(f"model {model!r} has no version {number}")


def _version(row: sqlite3.Row) -> VersionRecord:
    return VersionRecord(
        model=row["model"],
        number=row["number"],
        digest=row["digest"],
        size_bytes=row["size_bytes"],
        schema=schema_from_text(row["params"]),
        run_id=row["run_id"],
        round=row["round"],
        parent=row["parent"],
        created_at_s=row["created_at_s"],
        card=from_text(row["card"]),
        metrics=from_text(row["metrics"]),
        signature=row["signature"],
    )
