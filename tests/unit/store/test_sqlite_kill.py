"""A process that is killed before each single statement: every call happened whole or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from contract.store.builders import a_run, a_version, an_import, an_update, digest_of
from unit.store import kill_child

from fedfleet.store.protocols import RunState, VersionRecord
from fedfleet.store.sqlite import SqliteStore

CALLS = ["created", "accepted", "committed", "aliased", "ended", "added", "retired"]


def test_kill_before_every_statement_leaves_whole_calls(tmp_path: Path) -> None:
    def kill_at(statement: int) -> tuple[int, list[str], list[str]]:
        folder = tmp_path / str(statement)
        code, acknowledged = killed(folder, statement)
        with SqliteStore(folder) as store:
            return code, acknowledged, happened(store)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(kill_at, range(1, 72)))

    codes = [code for code, _, _ in results]
    ends = codes.index(0)  # from here on there are fewer statements than asked for
    assert ends > 45
    assert codes == [-signal.SIGKILL] * ends + [0] * (len(codes) - ends)
    for _, acknowledged, kept in results:
        # A version is retired before the last of its call, which deletes the bytes.
        assert kept in (acknowledged, [*acknowledged, "retired"])
    assert [kept for _, _, kept in results[ends:]] == [CALLS] * (len(codes) - ends)


def killed(folder: Path, statement: int) -> tuple[int, list[str]]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(kill_child.__file__), str(folder), str(statement)]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.returncode, result.stdout.split()


def happened(store: SqliteStore) -> list[str]:
    """The calls of the child that the store knows of; fails where one is there in part."""
    journal, registry = store.journal, store.registry
    runs, entries = journal.runs(), journal.entries("run-1")
    updates, versions = journal.updates("run-1", 1), registry.versions("digits")
    aliases, events = registry.aliases("digits"), registry.events()
    done = CALLS[: len(entries)] if len(entries) < 4 else CALLS[:5]
    if "c" in aliases and len(entries) == 3:
        done = CALLS[:4]
    done += [CALLS[5]] * (len(versions) == 2)
    done += [CALLS[6]] * (versions[-1:] == [RETIRED])

    assert len(runs) == ("created" in done)
    assert updates == ([an_update()] if "accepted" in done else [])
    if "added" in done:
        assert versions[0] == an_import(2, b"added", model="digits")
        check_bytes(store, versions[1])
    else:
        assert versions == ([a_version()] if "committed" in done else [])
    assert list(aliases) == [name for name, call in ALIASES.items() if call in done]
    steps = {"committed": 3, "aliased": 1, "added": 4, "retired": 1}
    assert len(events) == sum(count for step, count in steps.items() if step in done)
    if runs:
        wanted = "stopped" if "ended" in done else "queued"
        assert (runs[0].run_id, runs[0].state) == (a_run().run_id, RunState(wanted))
        assert runs[0].round == ("committed" in done)
        memory = digest_of(b"memory") if "committed" in done else ""
        assert journal.memory_digest("run-1") == memory
    return done


def check_bytes(store: SqliteStore, version: VersionRecord) -> None:
    """Bytes are there as long as the record says so, and the next call deletes what was left."""
    if version.retired_at_s is None:
        assert store.blobs.read(version.digest) == b"weights"
    else:
        assert store.registry.retire("digits", 1, 99.0) == version
        assert store.blobs.size(version.digest) is None


RETIRED = replace(a_version(), retired_at_s=50.5)
ALIASES = {"a": "committed", "b": "committed", "c": "aliased"}
