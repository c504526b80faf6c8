"""The store on a disk that is really full."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.store.builders import a_commit, a_run, a_version, an_entry, an_update, digest_of
from unit.store import full_disk_child

from fedfleet.errors import StoreFull
from fedfleet.store.sqlite import SqliteStore

DATA = random.Random(0).randbytes(300_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small disk needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a disk")
    try:
        yield tmp_path
    finally:
        subprocess.run([umount, str(tmp_path)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is, and return the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk has no end")


def files(folder: Path) -> set[Path]:
    return {path for part in ("blobs", "partial") for path in (folder / part).rglob("*")}


def test_put_on_a_full_disk_leaves_nothing_and_recovers(small_disk: Path) -> None:
    with SqliteStore(small_disk) as store:
        store.blobs.put(b"first")
        before = files(small_disk)
        ballast = fill(small_disk)

        with pytest.raises(StoreFull, match="nothing was written") as caught:
            store.blobs.put(DATA)
        assert caught.value.code == "STORE_FULL"
        assert {path for path in files(small_disk) if path.is_file()} <= before

        ballast.unlink()
        assert store.blobs.read(store.blobs.put(DATA)) == DATA


def test_upload_on_a_full_disk_keeps_what_came_before_and_recovers(small_disk: Path) -> None:
    with SqliteStore(small_disk) as store:
        writer = store.blobs.writer(digest_of(DATA), len(DATA), "key")
        writer.write(DATA[:50_001])
        ballast = fill(small_disk)

        for _ in range(2):
            with pytest.raises(StoreFull) as caught:
                writer.write(DATA[50_001:])
            assert caught.value.code == "STORE_FULL"
            assert writer.offset_bytes == 50_001
        ballast.unlink()
        writer.write(DATA[50_001:])
        writer.commit()

        assert store.blobs.read(digest_of(DATA)) == DATA


def test_journal_on_a_full_disk_keeps_what_it_has_and_recovers(small_disk: Path) -> None:
    with SqliteStore(small_disk) as store:
        store.journal.create_run(a_run(), an_entry())
        for data in (b"payload", b"weights"):
            store.blobs.put(data)
        before = store.journal.entries("run-1")
        ballast = fill(small_disk)
        large = {"text": "x" * 200_000}
        commit = a_commit(a_version(), entry=an_entry(kind="round_committed", fields=large))

        with pytest.raises(StoreFull) as caught:
            store.journal.accept_update(an_update(), an_entry(kind="update", fields=large))
        assert caught.value.code == "STORE_FULL"
        with pytest.raises(StoreFull):
            store.commit_round(commit)
        assert store.journal.entries("run-1") == before
        assert store.journal.updates("run-1", 1) == []
        assert store.registry.versions("digits") == []
        assert store.journal.run("run-1") == a_run()

        ballast.unlink()
        assert store.journal.accept_update(an_update(), an_entry(kind="update"))
        assert store.commit_round(commit) == a_version()

    with SqliteStore(small_disk) as store:
        assert store.registry.versions("digits") == [a_version()]


def test_opening_on_a_full_disk_is_refused(small_disk: Path) -> None:
    ballast = fill(small_disk)

    with pytest.raises(StoreFull) as caught:
        SqliteStore(small_disk)

    assert caught.value.code == "STORE_FULL"
    ballast.unlink()
    SqliteStore(small_disk).close()


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(full_disk_child.__file__), str(tmp_path)]

    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
