"""Runs background tasks under one roof: none is lost, none fails unseen.

The standard library's TaskGroup came with Python 3.11; JetPack 6 has 3.10. The difference here:
``failed`` is an event that a service waits for beside its stop signal, and ``close`` cancels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Supervisor:
    """Owns tasks; the first one that fails is logged and kept in ``error``."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._finishing: set[asyncio.Task[Any]] = set()
        self.failed = asyncio.Event()
        self.error: BaseException | None = None

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine until it ends or the supervisor is closed."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logger.error("task_failed", exc_info=error, extra={"task": task.get_name()})
            if self.error is None:
                self.error = error
            self.failed.set()

    async def finish(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Run work that must not stop half-way, even when whoever waits for it is cancelled.

        grpc cancels a handler when the caller's connection breaks; what the handler has begun to
        write down must still be told to everybody who has to know.
        """
        task = asyncio.create_task(work, name=name)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_unseen)
            raise

    async def run_until(self, stop: asyncio.Event) -> None:
        """Return when asked to stop; raise the error of the first task that fails."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self.failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Cancel what still runs, let what must finish finish, and wait for the end of both."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._finishing, return_exceptions=True)


def _log_unseen(task: asyncio.Task[Any]) -> None:
    """The caller has gone: the log is the only place left for an error."""
    if not task.cancelled() and task.exception() is not None:
        logger.error("unseen_failure", exc_info=task.exception(), extra={"task": task.get_name()})
