"""A version in the making, while the driver of its run goes on with other things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Making:
    """At most one version at a time.

    Args:
        on_end: is given the task when it ends, however it ends; its result raises what went wrong.
    """

    def __init__(self, on_end: Callable[[asyncio.Task[None]], None]) -> None:
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin, once the one before has ended."""
        try:
            await self.wait()
        except BaseException:
            work.close()
            raise
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._on_end)

    async def wait(self) -> None:
        """Until none is in the making; raises what went wrong."""
        if self._task is not None:
            await self._task

    async def end(self) -> None:
        """Let go of it: what of it is journalled stays, the rest is begun anew."""
        if self._task is not None:
            self._task.remove_done_callback(self._on_end)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
