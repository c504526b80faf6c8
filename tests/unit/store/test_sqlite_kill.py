"""A process that is killed before each single statement: every call happened whole or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contract.store.builders import a_run, a_version, an_update, digest_of
from unit.store import kill_child

from fedfleet.store.protocols import RunState
from fedfleet.store.sqlite import SqliteStore

CALLS = ["created", "accepted", "committed", "aliased", "ended"]


def test_kill_before_every_statement_leaves_whole_calls(tmp_path: Path) -> None:
    def kill_at(statement: int) -> tuple[int, list[str], list[str]]:
        folder = tmp_path / str(statement)
        code, acknowledged = killed(folder, statement)
        with SqliteStore(folder) as store:
            return code, acknowledged, happened(store)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(kill_at, range(1, 46)))

    codes = [code for code, _, _ in results]
    ends = codes.index(0)  # from here on there are fewer statements than asked for
    assert ends > 25
    assert codes == [-signal.SIGKILL] * ends + [0] * (len(codes) - ends)
    for _, acknowledged, kept in results:
        assert kept == acknowledged
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
    done = CALLS[: len(entries)] if len(entries) < 4 else CALLS
    if "c" in aliases and len(entries) == 3:
        done = CALLS[:4]

    assert len(runs) == ("created" in done)
    assert updates == ([an_update()] if "accepted" in done else [])
    assert versions == ([a_version()] if "committed" in done else [])
    assert list(aliases) == [name for name, call in ALIASES.items() if call in done]
    assert len(events) == 3 * ("committed" in done) + ("aliased" in done)
    if runs:
        wanted = "stopped" if "ended" in done else "queued"
        assert (runs[0].run_id, runs[0].state) == (a_run().run_id, RunState(wanted))
        assert runs[0].round == ("committed" in done)
        memory = digest_of(b"memory") if "committed" in done else ""
        assert journal.memory_digest("run-1") == memory
    return done


ALIASES = {"a": "committed", "b": "committed", "c": "aliased"}
