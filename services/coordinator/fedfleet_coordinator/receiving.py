"""Takes the next message of a stream, and does not wait for it for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from fedfleet.errors import TimedOut
from fedfleet.rpc.patience import within

T = TypeVar("T")


async def next_message(requests: AsyncIterator[T], patience_s: float) -> T | None:
    """The next message, or None at the stream's end; raises TimedOut when none comes in time."""
    try:
        return await within(patience_s, requests.__anext__())
    except StopAsyncIteration:
        return None
    except asyncio.TimeoutError as error:
        raise TimedOut(f"nothing came for {patience_s:g} s; the stream is closed") from error
