"""Lets a worker rest while its disk takes nothing: it says so, and goes on once there is room."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from fedfleet.errors import FedFleetError, StoreFull, StoreUnavailable
from fedfleet.rpc.patience import within
from fedfleet_worker.disk import Disk

logger = logging.getLogger(__name__)

# What a disk is at fault for, not the assignment.
DISK_FAULTS = (StoreFull, StoreUnavailable)
POLL_S = 1.0
# Trying writes as much as the disk refused: a device's card need not suffer that every second.
MOST_POLL_S = 30.0


class Room:
    """Whether the state folder takes what has to be written.

    Args:
        changed: called when the disk begins or ceases to refuse.
    """

    def __init__(self, disk: Disk, changed: Callable[[], None] = lambda: None) -> None:
        self._disk = disk
        self._changed = changed
        self._missed, self._free = asyncio.Event(), asyncio.Event()
        self._free.set()
        self.reason = ""

    def missed(self, error: FedFleetError) -> None:
        """The disk has refused a write: rest until it takes one again."""
        if not self.reason:
            self.reason = (
                "its disk is full" if isinstance(error, StoreFull) else "its disk cannot be used"
            )
            self._free.clear()
            self._missed.set()
            logger.error(
                "disk_refuses",
                extra={"code": error.code, "reason": error.message, "detail": error.detail},
            )
            self._changed()

    async def watch(self) -> None:
        """Try the disk while it refuses, for ever."""
        while True:
            await self._missed.wait()
            wait_s = POLL_S
            while not await asyncio.to_thread(self._disk.has_room):
                await asyncio.sleep(wait_s)
                wait_s = min(MOST_POLL_S, 2 * wait_s)
            self.reason = ""
            self._missed.clear()
            self._free.set()
            logger.info("disk_takes_again")
            self._changed()

    async def until_free(self, ends_s: float) -> None:
        """Wait while the disk refuses.

        Args:
            ends_s: when that has no use any more, by the monotonic clock.

        Raises:
            StoreFull: it refuses until then.
        """
        if self._free.is_set():
            return
        try:
            await within(max(0.0, ends_s - time.monotonic()), self._free.wait())
        except asyncio.TimeoutError as error:
            raise StoreFull(f"this worker rests until the deadline: {self.reason}") from error
