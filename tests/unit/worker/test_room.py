from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fedfleet.errors import StoreFull, StoreUnavailable
from fedfleet_worker import room as room_module
from fedfleet_worker.disk import Disk
from fedfleet_worker.room import Room

PATIENCE_S = 20.0


@asynccontextmanager
async def watched(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Room, list[str]]]:
    """A room that is looked at often, and the reasons that it told."""
    monkeypatch.setattr(room_module, "POLL_S", 0.01)
    told: list[str] = []
    room = Room(disk, lambda: told.append(room.reason))
    task = asyncio.create_task(room.watch())
    try:
        yield room, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_room_rests_until_the_disk_takes_something_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path)
    (tmp_path / "room.probe").mkdir()
    async with watched(disk, monkeypatch) as (room, told):
        await room.until_free(math.inf)  # nothing was refused yet
        room.missed(StoreFull("no room"))
        room.missed(StoreFull("no room"))
        with pytest.raises(StoreFull, match="until the deadline: its disk is full"):
            await room.until_free(time.monotonic() + 0.1)
        assert told == ["its disk is full"]

        (tmp_path / "room.probe").rmdir()
        await asyncio.wait_for(room.until_free(math.inf), PATIENCE_S)

    assert (room.reason, told) == ("", ["its disk is full", ""])
    assert not (tmp_path / "room.probe").exists()


async def test_room_tells_a_full_disk_from_one_that_fails(tmp_path: Path) -> None:
    room = Room(Disk(tmp_path))

    room.missed(StoreUnavailable("input/output error"))

    assert room.reason == "its disk cannot be used"
