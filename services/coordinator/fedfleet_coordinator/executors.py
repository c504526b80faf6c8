"""Where blocking work runs: the event loop only moves messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Executors:
    """Threads for files and the store, one for torch and numpy, and one for what cannot wait.

    One thread computes, so folding and evaluating never compete for the same cores. Beside it
    updates are checked, so that one is accepted while a version is made: at most two decoded
    updates are being worked on.
    """

    def __init__(self) -> None:
        self._io = ThreadPoolExecutor(8, thread_name_prefix="io")
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")

    async def io(self, work: Callable[[], T]) -> T:
        """Run a call that blocks on files or the store."""
        return await asyncio.get_running_loop().run_in_executor(self._io, work)

    async def compute(self, work: Callable[[], T]) -> T:
        """Run a call that keeps a core busy."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)

    async def compute_aside(self, work: Callable[[], T]) -> T:
        """Run a call that keeps a core busy, but is not to wait until a version is made."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    def close(self) -> None:
        """Wait for what runs; nothing new is taken."""
        self._io.shutdown(wait=True, cancel_futures=True)
        self._compute.shutdown(wait=True, cancel_futures=True)
        self._aside.shutdown(wait=True, cancel_futures=True)
