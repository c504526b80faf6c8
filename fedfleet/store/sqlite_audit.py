"""The audit log in SQLite."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

from fedfleet.errors import StoreUnavailable
from fedfleet.store.audit import AuditRecord, Deed, chained
from fedfleet.store.records import from_text, to_text
from fedfleet.store.sqlite_database import Database

_RECORD = "SELECT number, at_s, actor, action, object, fields, hash FROM audit"
_HEAD = f"{_RECORD} ORDER BY number DESC LIMIT 1"


class SqliteAudit:
    """Keeps the promises of ``Audit``; what was made unreadable comes as altered records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, deed: Deed) -> AuditRecord:
        with self._database.transaction() as connection:
            last = connection.execute(_HEAD).fetchone()
            record = chained(deed, _record(last) if last else None)
            connection.execute(
                "INSERT INTO audit (number, at_s, actor, action, object, fields, hash)"
                " VALUES (:number, :at_s, :actor, :action, :object, :fields, :hash)",
                {**vars(record), "fields": to_text(record.fields)},
            )
        return record

    def records(self, after_number: int = 0, limit: int = 1000) -> list[AuditRecord]:
        rows = self._database.rows(
            f"{_RECORD} WHERE number > ? ORDER BY number LIMIT ?", after_number, limit
        )
        return [_record(row) for row in rows]

    def head(self) -> AuditRecord | None:
        rows = self._database.rows(_HEAD)
        return _record(rows[0]) if rows else None


def _record(row: sqlite3.Row) -> AuditRecord:
    # Whoever alters the file may put values of any type into any column.
    at_s = row["at_s"]
    return AuditRecord(
        number=row["number"],
        at_s=at_s if isinstance(at_s, float) else math.nan,
        actor=str(row["actor"]),
        action=str(row["action"]),
        object=str(row["object"]),
        fields=_fields(row["fields"]),
        hash=str(row["hash"]),
    )


def _fields(text: Any) -> dict[str, Any]:
    try:
        fields = from_text(text)
    except StoreUnavailable:
        return {"unreadable": str(text)}
    return fields
