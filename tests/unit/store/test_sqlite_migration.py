"""Stores that older releases have written: ``sqlite_version_1.sql`` is a dump of a real one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract.store.builders import (
    a_commit,
    a_deed,
    a_run,
    a_token,
    a_version,
    an_entry,
    an_update,
)
from unit.store import migrate_kill_child

from fedfleet.errors import StateInUse
from fedfleet.store.owner import hold_folder
from fedfleet.store.protocols import AliasRecord, manifest_of
from fedfleet.store.sqlite import SqliteStore

FOLDER = Path(__file__).parent
DUMP = (FOLDER / "sqlite_version_1.sql").read_text()
# With a version that is signed, a lease that was held once, a token and a deed.
DUMP_2 = (FOLDER / "sqlite_version_2.sql").read_text()
SIGNATURE = "ab" * 64


def version_of(folder: Path) -> int:
    connection = sqlite3.connect(folder / "fedfleet.db")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    assert isinstance(version, int)
    return version


def schema_of(folder: Path) -> list[tuple[str, str, str]]:
    """Kind, name and columns of all there is, without the spaces of their definition."""
    connection = sqlite3.connect(folder / "fedfleet.db")
    names = connection.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall()
    found = [
        (kind, name, str(connection.execute(f"PRAGMA {kind}_info('{name}')").fetchall()))
        for kind, name in names
    ]
    connection.close()
    return found


def write_version_1(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    connection = sqlite3.connect(folder / "fedfleet.db")
    connection.executescript(DUMP)
    connection.close()
    assert version_of(folder) == 1
    return folder


def check_kept(store: SqliteStore) -> None:
    assert {event.at_s for event in store.registry.events()} == {0.0}
    assert store.journal.runs() == [a_run(round=1, updated_at_s=104.0), a_run("run-2")]
    kinds = [entry.kind for entry in store.journal.entries("run-1")]
    assert kinds == ["note", "update", "round_committed"]
    assert store.journal.updates("run-1", 1) == [an_update()]
    assert store.registry.versions("digits") == [a_version()]
    assert store.registry.version("digits", 1).signature == ""
    assert store.registry.aliases("digits") == {
        name: AliasRecord(model="digits", alias=name, number=1, revision=1)
        for name in ("latest", "production")
    }
    assert len(store.registry.events()) == 3


def use_all(store: SqliteStore) -> None:
    store.blobs.put(b"weights")
    with store.own() as lease:
        assert lease.record.token == 1
        store.access.add_token(a_token())
        store.audit.append(a_deed())
        entry = store.journal.append(an_entry())
        assert entry.event_id == 5  # ids are not used again
        signed = a_version(2, signature=SIGNATURE, lineage={"recipe": "ab"})
        store.commit_round(a_commit(signed))
        assert store.registry.versions("digits") == [signed, a_version()]
        store.registry.set_alias("digits", "production", 2)
        retired = store.registry.retire("digits", 1, 50.5)
        assert store.registry.versions("digits") == [signed, retired]


def test_a_store_of_version_1_keeps_its_data_and_can_all_that_a_new_one_can(
    tmp_path: Path,
) -> None:
    folder = write_version_1(tmp_path / "old")
    with SqliteStore(folder) as store:
        check_kept(store)
        use_all(store)
    SqliteStore(tmp_path / "new").close()

    assert version_of(folder) == version_of(tmp_path / "new") == 4
    assert schema_of(folder) == schema_of(tmp_path / "new")


def test_a_store_of_version_2_keeps_its_data_and_its_signatures(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    connection = sqlite3.connect(folder / "fedfleet.db")
    connection.executescript(DUMP_2)
    connection.close()
    assert version_of(folder) == 2

    with SqliteStore(folder) as store:
        old = store.registry.version("digits", 1)
        assert old == a_version(signature=SIGNATURE)
        assert (old.lineage, old.retired_at_s) == ({}, None)
        # What was signed before there was a lineage.
        assert manifest_of(old) == manifest_of(a_version())
        assert b"lineage" not in manifest_of(old)
        assert [token.token_id for token in store.access.tokens()] == ["old"]
        store.blobs.put(b"weights")
        with store.own() as lease:
            assert lease.record.token == 2
            store.commit_round(a_commit(a_version(2, lineage={"recipe": "ab"})))
            store.registry.set_alias("digits", "production", 2)
            assert store.registry.retire("digits", 1, 50.5).signature == SIGNATURE
    SqliteStore(tmp_path / "new").close()

    assert version_of(folder) == 4
    assert schema_of(folder) == schema_of(tmp_path / "new")


def test_a_first_store_of_version_1_gets_the_index_that_was_younger(tmp_path: Path) -> None:
    folder = write_version_1(tmp_path / "old")
    connection = sqlite3.connect(folder / "fedfleet.db")
    connection.execute("DROP INDEX updates_of_assignment")
    connection.close()

    SqliteStore(folder).close()

    assert "updates_of_assignment" in [name for _, name, _ in schema_of(folder)]


def test_a_store_that_an_older_coordinator_owns_is_left_as_it_is(tmp_path: Path) -> None:
    folder = write_version_1(tmp_path)

    with (
        hold_folder(folder, "the store's folder"),  # as version 1 owned
        pytest.raises(StateInUse, match=r"older release.* is in use by another process"),
    ):
        SqliteStore(folder)
    assert version_of(folder) == 1

    with SqliteStore(folder) as store:
        check_kept(store)


def test_kill_before_every_statement_of_the_migration_loses_nothing(tmp_path: Path) -> None:
    def kill_at(statement: int) -> tuple[int, int]:
        folder = write_version_1(tmp_path / str(statement))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, migrate_kill_child.__file__, str(folder), str(statement)]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert result.stderr == ""
        found = version_of(folder)
        with SqliteStore(folder) as store:
            check_kept(store)
            use_all(store)
        return result.returncode, found

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(kill_at, range(1, 25)))

    ends = [code for code, _ in results].index(0)
    assert ends > 12
    assert results == [(-signal.SIGKILL, 1)] * ends + [(0, 4)] * (len(results) - ends)


def test_many_processes_may_open_a_store_of_version_1_at_once(tmp_path: Path) -> None:
    folder = write_version_1(tmp_path)
    script = "import sys; from fedfleet.store.open import open_store; open_store(sys.argv[1])"
    command = [sys.executable, "-c", f"{script}.close()", f"sqlite:{folder}"]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for each in children:
        _, said = each.communicate()
        assert (each.returncode, said) == (0, b"")

    with SqliteStore(folder) as store:
        check_kept(store)
