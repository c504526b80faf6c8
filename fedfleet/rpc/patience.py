"""Waits for something for a limited time, and can always be cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(limit_s: float, work: Awaitable[T]) -> T:
    """Await, for a limited time.

    Not ``asyncio.wait_for``: before Python 3.12 that returns the result, and drops a cancellation
    that comes in the same moment, so that whoever was told to stop goes on.

    Raises:
        asyncio.TimeoutError: the time is over; the work is cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=limit_s)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()
