"""A Redis server that is killed while many write: what was acknowledged is there afterwards."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from contract.store.builders import a_run, an_entry
from contract.store.children import child
from redis_process import RedisProcess, redis_process
from unit.store import redis_kill_child

from fedfleet.errors import StoreUnavailable
from fedfleet.store.audit import AuditRecord, verify
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store

WRITERS = 3
KILLS = 4


class Told:
    """What the writers said, read by a thread each."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._more = threading.Condition()

    def listen(self, process: subprocess.Popen[str]) -> threading.Thread:
        thread = threading.Thread(target=self._read, args=(process,))
        thread.start()
        return thread

    def wait_for(self, count: int) -> None:
        """Until so many more have come."""
        with self._more:
            wanted = len(self.lines) + count
            assert self._more.wait_for(lambda: len(self.lines) >= wanted, timeout=60)

    def of(self, kind: str) -> list[str]:
        return [what for word, what in self.lines if word == kind]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                return  # killed in the middle of it
            word, what = line.split()
            with self._more:
                self.lines.append((word, what))
                self._more.notify_all()


def test_kill_of_the_server_loses_nothing_acknowledged(tmp_path: Path) -> None:
    rng, told = random.Random(0), Told()
    with redis_process(tmp_path) as server, open_store(server.url()) as store:
        store.journal.create_run(a_run(), an_entry(kind="created"))
        with ExitStack() as stack:
            names = [f"w{number}" for number in range(WRITERS)]
            writers = [
                stack.enter_context(child(redis_kill_child.__file__, server.url(), name))
                for name in names
            ]
            threads = [told.listen(writer) for writer in writers]
            for _ in range(KILLS):
                told.wait_for(rng.randint(20, 60))
                server.kill()
                server.start()
            told.wait_for(20)
            for writer in writers:
                writer.kill()
            for thread in threads:
                thread.join()

        check(store, told)


def check(store: Store, told: Told) -> None:
    entries = Counter(entry.kind for entry in store.journal.entries("run-1"))
    updates = {update.assignment_id for update in store.journal.updates("run-1", 1)}
    deeds = Counter(record.object for record in pages(store))
    assert len(told.of("update")) > KILLS * 5
    for digest in told.of("blob"):
        assert store.blobs.size(digest) is not None
    assert set(told.of("update")) <= updates
    assert entries == {**dict.fromkeys(updates, 1), "created": 1}
    assert set(told.of("deed")) <= deeds.keys()
    assert set(deeds.values()) == {1}
    assert verify(pages(store)) == len(pages(store))


def pages(store: Store) -> list[AuditRecord]:
    return store.audit.records(limit=10**6)


def test_a_store_comes_back_by_itself(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path)
    server.start()
    with open_store(server.url()) as store:
        store.journal.create_run(a_run(), an_entry())
        server.kill()
        began_s = time.monotonic()
        for call in (store.journal.runs, lambda: store.journal.append(an_entry())):
            with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                call()
            assert caught.value.code == "STORE_UNAVAILABLE"
            assert server.host not in caught.value.message
        assert 3.0 < time.monotonic() - began_s < 10.0

        server.start()
        assert store.journal.runs() == [a_run()]
        store.journal.append(an_entry())
        assert len(store.journal.entries("run-1")) == 2
        server.kill()


def test_a_call_waits_out_a_short_restart(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server, open_store(server.url()) as store:
        store.journal.create_run(a_run(), an_entry())
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()

        store.journal.append(an_entry())

        starting.join()
        assert len(store.journal.entries("run-1")) == 2


def test_a_server_that_stands_still_is_told_soon_and_forgiven(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server, open_store(server.url()) as store:
        store.journal.create_run(a_run(), an_entry())
        server.pause()
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.journal.append(an_entry(kind="late"))
        assert time.monotonic() - began_s < 4.0

        server.go_on()
        kinds = [entry.kind for entry in store.journal.entries("run-1")]
        store.journal.append(an_entry(kind="next"))

        # Whether it happened or not, it was settled before the journal was read.
        assert kinds in (["note"], ["note", "late"])
        assert [entry.kind for entry in store.journal.entries("run-1")] == [*kinds, "next"]


def test_a_server_that_reads_its_log_is_waited_for(tmp_path: Path) -> None:
    server = RedisProcess(tmp_path, key_load_delay="1000")  # microseconds a command
    server.start()
    with open_store(server.url()) as store:
        store.journal.create_run(a_run(), an_entry())
        for number in range(600):
            store.journal.append(an_entry(kind=str(number)))
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()
        answers = []
        while starting.is_alive():
            try:
                answers.append(len(store.journal.entries("run-1")))
            except StoreUnavailable as error:
                answers.append(error.code)
        starting.join()

        assert answers[0] == "STORE_UNAVAILABLE"
        assert set(answers) <= {"STORE_UNAVAILABLE", 601}  # never a part of it
        assert len(store.journal.entries("run-1")) == 601
    server.kill()
