"""The registry in SQLite: versions, aliases, and the events that followers read."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from dataclasses import replace

from fedfleet.errors import Conflict
from fedfleet.store.protocols import AliasRecord, Blobs, RegistryEvent, VersionRecord, check_alias
from fedfleet.store.records import from_text, schema_from_text, schema_to_text, to_text
from fedfleet.store.refusals import (
    alias_moved,
    is_needed,
    is_retired,
    no_blob,
    no_version,
    not_next,
)
from fedfleet.store.sqlite_database import Database

_VERSION = (
    "SELECT versions.*, schemas.params FROM versions"
    " JOIN schemas ON schemas.digest = versions.schema_digest WHERE model = ?"
)
_BEYOND = 2**63 - 1  # no version has this number, or a higher one
_ALIAS = "SELECT model, alias, number, revision FROM aliases WHERE model = ?"


class SqliteRegistry:
    """Keeps the promises of ``Registry``."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def models(self) -> list[str]:
        rows = self._database.rows("SELECT DISTINCT model FROM versions ORDER BY model")
        return [row["model"] for row in rows]

    def versions(
        self, model: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionRecord]:
        rows = self._database.rows(
            f"{_VERSION} AND number < ? ORDER BY number DESC LIMIT ?",
            model,
            _BEYOND if before is None else min(before, _BEYOND),
            -1 if limit is None else max(0, limit),
        )
        return [_version(row) for row in rows]

    def newest_number(self, model: str) -> int:
        sql = "SELECT COALESCE(MAX(number), 0) AS number FROM versions WHERE model = ?"
        number: int = self._database.rows(sql, model)[0]["number"]
        return number

    def version(self, model: str, number: int) -> VersionRecord:
        rows = self._database.rows(f"{_VERSION} AND number = ?", model, number)
        if not rows:
            raise no_version(model, number)
        return _version(rows[0])

    def aliases(self, model: str) -> dict[str, AliasRecord]:
        rows = self._database.rows(f"{_ALIAS} ORDER BY alias", model)
        return {row["alias"]: AliasRecord(**dict(row)) for row in rows}

    def set_alias(
        self, model: str, alias: str, number: int, expected_revision: int | None = None
    ) -> AliasRecord:
        check_alias(alias)
        with self._database.transaction() as connection:
            if _read(connection, model, number).retired_at_s is not None:
                raise is_retired(model, number)
            return _move_alias(connection, model, alias, number, expected_revision)

    def add(self, version: VersionRecord, aliases: tuple[str, ...] = ()) -> VersionRecord:
        for alias in aliases:
            check_alias(alias)
        with self._database.transaction() as connection:
            add_version(connection, self._blobs, version, aliases)
        return version

    def retire(self, model: str, number: int, at_s: float) -> VersionRecord:
        with self._database.transaction() as connection:
            version = _read(connection, model, number)
            if version.retired_at_s is None:
                _check_unneeded(connection, version)
                connection.execute(
                    "UPDATE versions SET retired_at_s = ? WHERE model = ? AND number = ?",
                    (at_s, model, number),
                )
                _announce(connection, "retired", model, number)
                version = replace(version, retired_at_s=at_s)
        # Not before: a file that is gone does not come back when the transaction fails. Whoever is
        # killed in between leaves a file that the next call deletes.
        with suppress(Conflict):
            self._blobs.delete(version.digest)
        return version

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        rows = self._database.rows(
            "SELECT id AS event_id, kind, model, number, alias, at_s FROM registry_events"
            " WHERE id > ? ORDER BY id LIMIT ?",
            after_id,
            limit,
        )
        return [RegistryEvent(**dict(row)) for row in rows]


def add_version(
    connection: sqlite3.Connection,
    blobs: Blobs,
    version: VersionRecord,
    aliases: tuple[str, ...],
) -> None:
    """Store a version, set aliases to it, announce all that, in this transaction.

    Raises:
        Conflict: its number is not the next one.
        NotFound: its blob is not there.
    """
    newest = _newest_number(connection, version.model)
    if version.number != newest + 1:
        raise not_next(version, newest)
    if blobs.size(version.digest) is None:
        raise no_blob(version.digest, "version")
    _insert_version(connection, version)
    for alias in aliases:
        _move_alias(connection, version.model, alias, version.number)


def _newest_number(connection: sqlite3.Connection, model: str) -> int:
    row = connection.execute(
        "SELECT COALESCE(MAX(number), 0) FROM versions WHERE model = ?", (model,)
    ).fetchone()
    number: int = row[0]
    return number


def _check_unneeded(connection: sqlite3.Connection, version: VersionRecord) -> None:
    """Raises Conflict: somebody needs a version's bytes."""
    model, number = version.model, version.number
    alias = connection.execute(
        "SELECT alias FROM aliases WHERE model = ? AND number = ? ORDER BY alias LIMIT 1",
        (model, number),
    ).fetchone()
    if alias is not None:
        raise is_needed(model, number, f"alias {alias[0]!r} points at it")
    if number == _newest_number(connection, model):
        raise is_needed(model, number, "it is the newest")
    run = connection.execute(
        "SELECT 1 FROM runs WHERE run_id = ? AND state IN ('queued', 'running') AND round <= ?",
        (version.run_id, version.round),
    ).fetchone()
    if run is not None:
        raise is_needed(model, number, f"run {version.run_id} goes on from it")


def _insert_version(connection: sqlite3.Connection, version: VersionRecord) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO schemas (digest, params) VALUES (?, ?)",
        (version.schema.digest, schema_to_text(version.schema)),
    )
    connection.execute(
        "INSERT INTO versions (model, number, digest, size_bytes, schema_digest, run_id, round,"
        " parent, created_at_s, card, metrics, signature, lineage)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
            to_text(version.lineage),
        ),
    )
    _announce(connection, "version", version.model, version.number)


def _move_alias(
    connection: sqlite3.Connection, model: str, alias: str, number: int, expected: int | None = None
) -> AliasRecord:
    row = connection.execute(f"{_ALIAS} AND alias = ?", (model, alias)).fetchone()
    revision: int = row["revision"] if row else 0
    if expected is not None and expected != revision:
        raise alias_moved(model, alias, revision, expected)
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
        "INSERT INTO registry_events (kind, model, number, alias, at_s) VALUES (?, ?, ?, ?, ?)",
        (kind, model, number, alias, time.time()),
    )


def _read(connection: sqlite3.Connection, model: str, number: int) -> VersionRecord:
    row = connection.execute(f"{_VERSION} AND number = ?", (model, number)).fetchone()
    if row is None:
        raise no_version(model, number)
    return _version(row)


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
        lineage=from_text(row["lineage"]),
        retired_at_s=row["retired_at_s"],
    )
