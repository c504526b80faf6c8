from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedfleet.errors import FedFleetError
from fedfleet.types import Kind, Section, Update, UpdateHeader
from fedfleet.wire.updates import EncodedUpdate, encode_update
from fedfleet_worker.disk import Disk


def an_update(assignment_id: str = "r-1/1/1/train/w") -> EncodedUpdate:
    header = UpdateHeader(
        run_id="r-1",
        round=1,
        assignment_id=assignment_id,
        worker_id="w",
        base_digest="0" * 64,
        schema_digest="1" * 64,
        weight=3.0,
        steps=1,
        lr_sum=0.1,
    )
    values = np.arange(5, dtype=np.float32)
    return encode_update(Update(header, (Section("trainable", Kind.TRAINABLE, values),)))


def test_disk_gives_a_finished_update_back_after_a_restart(tmp_path: Path) -> None:
    update = an_update()
    Disk(tmp_path).keep(update, {"c": np.ones(2)})

    [finished] = Disk(tmp_path).finished()

    assert finished.header == update.header
    assert finished.read(0, 4) + finished.read(4, 1000) == update.payload


def test_disk_advances_the_memory_with_the_receipt_only(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    dropped = disk.keep(an_update("r-1/1/1/train/w"), {"c": np.full(2, 1.0)})
    disk.drop(dropped)
    assert disk.memory("r-1") == {}

    disk.delivered(disk.keep(an_update("r-1/2/1/train/w"), {"c": np.full(2, 2.0)}))

    assert Disk(tmp_path).memory("r-1")["c"].tolist() == [2.0, 2.0]
    assert disk.memory("r-2") == {}
    assert disk.finished() == []


def test_disk_forgets_an_update_that_was_being_written_when_the_power_went(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    finished = disk.keep(an_update(), {})
    finished.folder.rename(finished.folder.with_name("x.123.new"))

    assert Disk(tmp_path).finished() == []
    assert list((tmp_path / "updates").iterdir()) == []


def test_disk_keeps_the_newest_version_and_never_a_damaged_one(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    first, second = b"first", b"second"
    digests = [hashlib.sha256(data).hexdigest() for data in (first, second)]
    for digest, data in zip(digests, (first, second), strict=True):
        disk.keep_version(digest, data)

    assert disk.version(digests[0]) is None
    assert disk.version(digests[1]) == second
    (tmp_path / "versions" / digests[1]).write_bytes(b"torn")
    assert disk.version(digests[1]) is None


def test_disk_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FedFleetError) as caught:
        Disk(tmp_path / "file")

    assert caught.value.code in ("STORE_UNAVAILABLE", "STORE_FULL")
