"""Waits for an event, for a while, so that whoever waits can be ended at any moment."""

from __future__ import annotations

import asyncio


async def happens(event: asyncio.Event, within_s: float) -> bool:
    """Whether an event is set, now or within that time.

    For an answer that goes on this has to be used instead of ``asyncio.wait_for``, which before
    Python 3.12 swallows a cancellation in the moments after the event (python/cpython#86296): the
    task lived on without its caller, and kept one of the places that are given to callers.
    """
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=within_s)
        return waiting.done() or event.is_set()
    finally:
        waiting.cancel()
