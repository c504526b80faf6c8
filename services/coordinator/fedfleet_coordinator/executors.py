"""Where blocking work runs: the event loop only moves messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Executors:
    """Threads for files and the store, and one for torch and numpy.

    One thread computes, so folding, checking and evaluating never compete for the same cores and
    at most one decoded update is being worked on.
    """

    def __init__(self) -> None:
        self._io = ThreadPoolExecutor(8, thread_name_prefix="io")
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")

    async def io(self, work: Callable[[], T]) -> T:
        """Run a call that blocks on files or the store."""
        return await asyncio.get_running_loop().run_in_executor(self._io, work)

    async def compute(self, work: Callable[[], T]) -> T:
        """Run a call that keeps a core busy."""
        return await asyncio.get_running_loop().run_in_executor(self._compute, work)

    def close(self) -> None:
        """Wait for what runs; nothing new is taken."""
        self._io.shutdown(wait=True, cancel_futures=True)
        self._compute.shutdown(wait=True, cancel_futures=True)
