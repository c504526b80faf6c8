from __future__ import annotations

import hashlib
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from worker_updates import an_update

from fedfleet.errors import FedFleetError, StoreFull
from fedfleet_worker.disk import LEAST_ROOM_BYTES, MEMORIES, Disk


def test_disk_gives_a_finished_update_back_after_a_restart(tmp_path: Path) -> None:
    update = an_update()
    Disk(tmp_path).keep(update, {"c": np.ones(2)})

    [finished] = Disk(tmp_path).finished()

    assert finished.header == update.header
    assert finished.read(0, 4) + finished.read(4, 1000) == update.payload


def test_disk_advances_the_memory_with_the_receipt_only(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    dropped = disk.keep(an_update(assignment_id="r-1/1/1/train/w"), {"c": np.full(2, 1.0)})
    disk.drop(dropped)
    assert disk.memory("r-1", "a") == {}

    disk.delivered(disk.keep(an_update(assignment_id="r-1/2/1/train/w"), {"c": np.full(2, 2.0)}))

    assert Disk(tmp_path).memory("r-1", "a")["c"].tolist() == [2.0, 2.0]
    assert disk.memory("r-2", "a") == {}
    assert disk.finished() == []


def test_disk_forgets_an_update_that_was_being_written_when_the_power_went(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    finished = disk.keep(an_update(), {})
    finished.folder.rename(finished.folder.with_name("x.123.new"))

    assert Disk(tmp_path).finished() == []
    assert list((tmp_path / "updates").iterdir()) == []


def test_disk_keeps_the_named_versions_and_never_a_damaged_one(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    first, second = b"first", b"second"
    digests = [hashlib.sha256(data).hexdigest() for data in (first, second)]
    for digest, data in zip(digests, (first, second), strict=True):
        disk.keep_version(digest, data)
    assert disk.held() == set(digests)
    disk.keep_versions(digests[1:])

    assert disk.version(digests[0]) is None
    assert disk.version(digests[1]) == second
    (tmp_path / "versions" / digests[1]).write_bytes(b"torn")
    assert disk.version(digests[1]) is None


def test_disk_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FedFleetError) as caught:
        Disk(tmp_path / "file")

    assert caught.value.code in ("STORE_UNAVAILABLE", "STORE_FULL")


def test_disk_drops_an_update_whole_though_it_is_killed_midway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(folder: Path, **_: object) -> None:
        (folder / "header.json").unlink()
        raise Killed

    disk = Disk(tmp_path)
    finished = disk.keep(an_update(), {})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(shutil, "rmtree", die)
        disk.drop(finished)

    assert not finished.folder.exists()
    assert Disk(tmp_path).finished() == []
    assert list((tmp_path / "updates").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("header.json", None),
        ("header.json", b""),
        ("header.json", b"[1]"),
        ("header.json", b'{"no_such_field": 1}'),
        ("header.json", b"\xff"),
        ("payload", None),
        ("payload", b"torn"),
    ],
)
def test_disk_removes_a_damaged_update_and_gives_the_others(
    name: str, data: bytes | None, tmp_path: Path
) -> None:
    disk = Disk(tmp_path)
    disk.keep(an_update(assignment_id="good"), {})
    damaged = disk.keep(an_update(assignment_id="damaged"), {})
    if data is None:
        (damaged.folder / name).unlink()
    else:
        (damaged.folder / name).write_bytes(data)

    [finished] = Disk(tmp_path).finished()

    assert finished.assignment_id == "good"
    assert list((tmp_path / "updates").iterdir()) == [finished.folder]


def test_disk_leaves_an_update_that_cannot_be_read_now_until_it_is_made_again(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    unreadable = disk.keep(an_update(), {})
    header = unreadable.folder / "header.json"
    header.unlink()
    header.mkdir()

    assert Disk(tmp_path).finished() == []
    assert unreadable.folder.exists()

    again = disk.keep(an_update(), {})
    assert Disk(tmp_path).finished() == [again]


def test_disk_keeps_the_memories_of_the_runs_that_were_used_last(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    runs = [f"r-{i}" for i in range(MEMORIES + 3)]

    for run in runs:
        disk.delivered(disk.keep(an_update(run_id=run), {"c": np.ones(2)}))
        assert disk.memory("r-0", "a") != {}

    assert [run for run in runs if disk.memory(run, "a")] == ["r-0", *runs[-MEMORIES + 1 :]]


def test_disk_keeps_the_newest_memory_though_the_clock_went_back(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for i in range(MEMORIES):
        disk.delivered(disk.keep(an_update(run_id=f"r-{i}"), {"c": np.ones(2)}))
    for path in (tmp_path / "memories").iterdir():
        os.utime(path, (2e10, 2e10))

    disk.delivered(disk.keep(an_update(run_id="new"), {"c": np.ones(2)}))

    assert disk.memory("new", "a") != {}


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


@pytest.mark.parametrize("before", ["replace", "utime", "sync_folder", "rename", "rmtree"])
def test_disk_installs_a_memory_once_wherever_a_receipt_was_interrupted(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt comes again after each death, as the coordinator gives it again."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    owners = {"replace": Path, "rename": Path, "utime": os, "rmtree": shutil}
    disk = Disk(tmp_path)
    disk.delivered(disk.keep(an_update(assignment_id="first"), {"c": np.full(2, 1.0)}))
    second = disk.keep(an_update(assignment_id="second", round=2), {"c": np.full(2, 2.0)})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        if before == "sync_folder":
            patched.setattr("fedfleet_worker.disk.sync_folder", die)
        else:
            patched.setattr(owners[before], before, die)
        disk.delivered(second)

    disk = Disk(tmp_path)
    for again in disk.finished():
        assert again.header == second.header
        disk.delivered(again)

    assert disk.memory("r-1", "a")["c"].tolist() == [2.0, 2.0]
    assert disk.finished() == []
    assert list((tmp_path / "updates").iterdir()) == []


def test_disk_gives_updates_of_earlier_rounds_first(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for round in (3, 10, 1, 2):
        disk.keep(an_update(assignment_id=f"r-1/{round}/1/train/w", round=round), {})

    assert [one.header.round for one in Disk(tmp_path).finished()] == [1, 2, 3, 10]


@contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """As on a disk with so little room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_without_room_leaves_nothing_behind_and_knows_when_there_is_some(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    version = bytes(200_000)
    digest = hashlib.sha256(version).hexdigest()
    with files_up_to(100_000):
        with pytest.raises(StoreFull):
            disk.keep_version(digest, version)
        assert disk.held() == frozenset()
        assert not disk.has_room()
        with pytest.raises(StoreFull):
            disk.keep(an_update(values=50_000), {"c": np.ones(2)})
        assert list((tmp_path / "updates").iterdir()) == []
        assert not disk.has_room()
    with files_up_to(200_000 + LEAST_ROOM_BYTES - 1000):
        assert not disk.has_room()
    assert disk.has_room()
    disk.keep_version(digest, version)

    assert disk.version(digest) == version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memories", "updates", "versions"]
