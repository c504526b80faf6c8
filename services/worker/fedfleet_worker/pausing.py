"""Lets a worker rest while its device's limits say so: assignments wait, training is held."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from fedfleet.errors import TimedOut
from fedfleet.rpc.patience import within
from fedfleet_worker.guest import NO_PAUSE, Limits, Pause, why_paused
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.sensors import DeviceSensors, Sensors

logger = logging.getLogger(__name__)

POLL_S = 1.0
# How soon a training that is held notices that it was cancelled.
NOTICE_S = 0.2


class Pausing:
    """Whether the worker rests, kept up to date by ``watch``.

    Args:
        sensors: this device's where None.
        changed: called when a limit begins or ceases to be passed.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: WorkerMetrics,
        sensors: Sensors | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._sensors = sensors or DeviceSensors(limits)
        self._changed = changed
        self._pause = NO_PAUSE
        # For those who wait on the loop, and for the training thread.
        self._free, self._network_free = asyncio.Event(), asyncio.Event()
        self._metered = asyncio.Event()
        self._looking = asyncio.Lock()
        self._go = threading.Event()
        for event in (self._free, self._network_free, self._go):
            event.set()

    @property
    def reason(self) -> str:
        """Why the worker rests, in one line; empty when it does not."""
        return self._pause.reason

    async def watch(self) -> None:
        """Read the sensors, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Read the sensors once."""
        if self._limits.are_set:
            async with self._looking:  # the newest is what counts
                condition = await asyncio.to_thread(self._sensors.read)
                self._set(why_paused(self._limits, condition, self._pause))

    def _set(self, pause: Pause) -> None:
        before, self._pause = self._pause, pause
        _tell(self._free, not pause.limits)
        _tell(self._go, not pause.limits)
        _tell(self._network_free, "network" not in pause.limits)
        _tell(self._metered, "network" in pause.limits)
        if pause.limits != before.limits:
            self._metrics.paused.set(bool(pause.limits))
            logger.info(
                "paused" if pause.limits else "resumed",
                extra={"reason": pause.reason or before.reason},
            )
            self._changed()

    async def until_free(self, ends_s: float) -> None:
        """Wait while the worker rests.

        Args:
            ends_s: when that has no use any more, by the monotonic clock.

        Raises:
            TimedOut: it rests until then.
        """
        while self._pause.limits:
            left_s = ends_s - time.monotonic()
            if left_s <= self._pause.at_least_s:
                raise TimedOut(f"this worker rests until the deadline: {self.reason}")
            try:
                # Looked at now and then: what is known of the pause's length changes.
                await within(min(left_s, POLL_S), self._free.wait())
            except asyncio.TimeoutError:
                continue

    async def until_network(self) -> None:
        """Wait while the network is one that the worker must not use for large things."""
        await self._network_free.wait()

    async def until_metered(self) -> None:
        """Wait until it is such a network."""
        await self._metered.wait()

    def hold(self, is_over: Callable[[], bool]) -> None:
        """Block the calling thread while the worker rests, unless there is nothing to wait for."""
        while not is_over() and not self._go.wait(NOTICE_S):
            pass


def _tell(event: asyncio.Event | threading.Event, is_set: bool) -> None:
    if is_set:
        event.set()
    else:
        event.clear()
