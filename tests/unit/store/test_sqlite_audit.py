"""A log that somebody has changed with a database tool."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from contract.store.builders import a_deed

from fedfleet.errors import AuditBroken
from fedfleet.store.audit import verify
from fedfleet.store.sqlite import SqliteStore


def alter(folder: Path, sql: str) -> None:
    connection = sqlite3.connect(folder / "fedfleet.db")
    with connection:
        connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    "change",
    [
        "at_s = at_s + 1e-9",
        "at_s = 'soon'",
        "actor = 'operator/eve'",
        "actor = x'ff00'",
        "action = action || ' '",
        "object = 7",
        "fields = '{}'",
        "fields = '{'",
        "fields = '[1]'",
        "fields = x'ff'",
        "fields = replace(fields, 't1', 't2')",
        "hash = replace(hash, substr(hash, 1, 1), 'x')",
    ],
)
def test_a_change_of_any_column_is_found_and_the_log_goes_on(tmp_path: Path, change: str) -> None:
    with SqliteStore(tmp_path) as store:
        for _ in range(3):
            store.audit.append(a_deed())
        alter(tmp_path, f"UPDATE audit SET {change} WHERE number = 3")

        with pytest.raises(AuditBroken, match=r"^audit record 3 was altered"):
            verify(store.audit.records())
        assert store.audit.append(a_deed()).number == 4
        with pytest.raises(AuditBroken, match=r"^audit record 3 was altered"):
            verify(store.audit.records())


def test_a_record_that_was_removed_is_named_and_its_number_not_used_again(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        for _ in range(4):
            store.audit.append(a_deed())
        alter(tmp_path, "DELETE FROM audit WHERE number = 2")

        assert store.audit.append(a_deed()).number == 5
        with pytest.raises(AuditBroken, match=r"^audit record 2 is missing"):
            verify(store.audit.records())
