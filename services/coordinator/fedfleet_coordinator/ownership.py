"""The coordinator's hold on its store: taken, or waited for; watched; given back."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from fedfleet.errors import LeaseLost
from fedfleet.store.lease import BEATS, Lease
from fedfleet.store.protocols import Store


class Ownership:
    """Owns a store for one coordinator.

    Args:
        lasts_s: after so long without a sign of life another may take over.
        waits: a store that somebody else owns is waited for, as long as it takes.
    """

    def __init__(self, store: Store, lasts_s: float, *, waits: bool) -> None:
        self._store = store
        self._lasts_s = lasts_s
        self._wait_s = None if waits else 0.0
        self._given_up = threading.Event()
        self._held = ExitStack()
        self._lease: Lease | None = None
        # Waiting blocks a thread for as long as the owner lives.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ownership")

    async def take(self) -> None:
        """Become the owner.

        Raises:
            StateInUse: another process is; or nobody wants to wait any more.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._take)
        except asyncio.CancelledError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Wait no longer; from any thread."""
        self._given_up.set()

    async def watch(self) -> None:
        """Return never; raise LeaseLost when another coordinator has taken the store over."""
        assert self._lease is not None, "taken before it is watched"
        while True:
            await asyncio.sleep(self._lasts_s / BEATS)
            if self._lease.lost.is_set():
                raise LeaseLost("another coordinator owns the store now: this one ends")

    async def give_back(self) -> None:
        """Let a standby take over at once; no-op after the first time."""
        self.give_up()
        await asyncio.get_running_loop().run_in_executor(None, self._end)

    def _end(self) -> None:
        self._thread.shutdown(wait=True)
        self._held.close()

    def _take(self) -> None:
        owning = self._store.own(
            lasts_s=self._lasts_s, wait_s=self._wait_s, given_up=self._given_up
        )
        self._lease = self._held.enter_context(owning)
