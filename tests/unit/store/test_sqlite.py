from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update

from fedfleet.errors import InvalidInput, StoreFull, StoreUnavailable
from fedfleet.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path, busy_timeout_s=0.02) as store:
        yield store


def setting(store: SqliteStore, name: str) -> object:
    return store.database.rows(f"PRAGMA {name}")[0][0]


def test_settings_are_the_durable_ones(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        found = {
            name: setting(store, name)
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "fedfleet.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreUnavailable, match=r"newer release .*schema is 99.*upgrade") as caught:
        SqliteStore(tmp_path)

    assert caught.value.code == "STORE_UNAVAILABLE"


@pytest.mark.parametrize("junk", [b"this is no database" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "fedfleet.db").write_bytes(junk)

    with pytest.raises(StoreUnavailable, match="cannot be used") as caught:
        SqliteStore(tmp_path)

    assert caught.value.code == "STORE_UNAVAILABLE"
    assert (tmp_path / "fedfleet.db").read_bytes() == junk


def test_a_damaged_database_is_unavailable(tmp_path: Path) -> None:
    with SqliteStore(tmp_path) as store:
        for number in range(200):
            store.journal.create_run(a_run(str(number)), an_entry(str(number)))
    path = tmp_path / "fedfleet.db"
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))

    with (
        pytest.raises(StoreUnavailable, match="malformed"),
        SqliteStore(tmp_path) as store,
    ):
        store.journal.runs()


def test_a_lock_that_stays_is_unavailable_and_then_all_is_well(
    store: SqliteStore, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "fedfleet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="locked by another process") as caught:
        store.journal.create_run(a_run(), an_entry())
    assert caught.value.code == "STORE_UNAVAILABLE"
    assert caught.value.retryable
    assert store.journal.runs() == []  # readers are let in

    other.execute("ROLLBACK")
    other.close()
    store.journal.create_run(a_run(), an_entry())


def test_a_closed_store_is_unavailable(store: SqliteStore) -> None:
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable, match="closed"):
        store.journal.runs()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.journal.create_run(a_run(), an_entry())


def limit_pages(store: SqliteStore, beyond: int) -> None:
    with store.database.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + beyond}")


def test_a_full_disk_refuses_an_update_whole_and_recovers(store: SqliteStore) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"payload")
    before = store.journal.entries("run-1")
    limit_pages(store, 2)
    large = an_entry(kind="update", fields={"text": "x" * 100_000})

    with pytest.raises(StoreFull, match="nothing was written") as caught:
        store.journal.accept_update(an_update(), large)

    assert caught.value.code == "STORE_FULL"
    assert store.journal.updates("run-1", 1) == []
    assert store.journal.entries("run-1") == before
    limit_pages(store, 1000)
    assert store.journal.accept_update(an_update(), large)


def test_a_full_disk_refuses_a_round_whole_and_recovers(store: SqliteStore) -> None:
    store.journal.create_run(a_run(), an_entry())
    store.blobs.put(b"weights")
    limit_pages(store, 0)
    entry = an_entry(kind="round_committed", fields={"text": "x" * 100_000})
    commit = a_commit(a_version(), entry=entry)

    with pytest.raises(StoreFull):
        store.commit_round(commit)

    assert store.journal.run("run-1") == a_run()
    assert store.registry.versions("digits") == []
    assert store.registry.aliases("digits") == {}
    assert store.registry.events() == []
    limit_pages(store, 1000)
    store.commit_round(commit)


def test_values_beyond_sqlite_are_invalid_input(store: SqliteStore) -> None:
    for call in (
        lambda: store.registry.version("digits", 2**63),
        lambda: store.journal.run("\ud800"),
    ):
        with pytest.raises(InvalidInput, match="cannot be stored") as caught:
            call()
        assert caught.value.code == "INVALID_INPUT"


def test_names_are_values_never_sql(store: SqliteStore) -> None:
    name = "x'; DROP TABLE runs; --"
    store.journal.create_run(a_run(name), an_entry(name))

    assert [run.run_id for run in store.journal.runs()] == [name]
