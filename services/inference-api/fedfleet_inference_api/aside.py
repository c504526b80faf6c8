"""Runs what may block for long on threads of its own, not on those that all requests share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from fedfleet.errors import FedFleetError, Unavailable

T = TypeVar("T")


class Aside:
    """Calls that may block, a thread each.

    The event loop's own threads would not do: the check of a key waits for one of them. And their
    end is waited for when the process stops, which is not to wait for a resolver.

    Args:
        name: of the threads.
        most: calls at once.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._free = threading.BoundedSemaphore(most)

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns; it goes on when nobody waits for it any more.

        Raises:
            Unavailable: too many are under way.
            FedFleetError: that of the call.
        """
        if not self._free.acquire(blocking=False):
            raise Unavailable("too many of these are under way: try again in a moment")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # so that it cannot be cancelled
        threading.Thread(target=self._do, args=(call, future), name=self._name, daemon=True).start()
        return await asyncio.wrap_future(future)

    def _do(self, call: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(call())
        except FedFleetError as error:
            future.set_exception(error)
        finally:
            self._free.release()
            if not future.done():  # an error of our own, which the thread's end logs
                future.set_exception(RuntimeError(f"{self._name} failed"))
