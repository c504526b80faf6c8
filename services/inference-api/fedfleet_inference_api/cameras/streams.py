"""Answers that go on: until their source ends, their caller leaves or loses its key, or a stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# Whether the key of a caller whose answer goes on still opens what it reads.
StillAllowed = Callable[[], Awaitable[bool]]
# In a request's scope: left there by the guard, where the request needed a key.
STILL_ALLOWED = "fedfleet.still_allowed"
# In a request's scope: its answer goes on, so a server that stops does not wait for it.
LIVE = "fedfleet.live"
CHECK_S = 2.0

Open = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]


class LiveResponse(Response):
    """An answer without an end of its own.

    Args:
        open: what is sent; opened before the first byte, so that what it raises is an ordinary
            answer, and closed whatever ends this one.
    """

    def __init__(
        self, open: Open, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(media_type=media_type, headers=dict(headers or {}))
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"  # proxies that follow nginx would hold it back
        # No page of elsewhere shows it: a browser on this machine may need no key.
        self.headers["cross-origin-resource-policy"] = "same-origin"
        self._open = open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._open() as pieces:
            scope[LIVE] = True
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            pump = asyncio.ensure_future(_pump(pieces, send))
            leaving = asyncio.ensure_future(until_gone(scope, receive))
            try:
                await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end_all(pump, leaving)
            if not pump.cancelled():
                pump.result()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pump(pieces: AsyncIterator[bytes], send: Send) -> None:
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def until_gone(scope: Scope, receive: Receive) -> None:
    """Return when the caller has left, or its key does not open this any more.

    What a caller sends over a WebSocket ends it, too: nothing is asked of it.
    """
    still_allowed: StillAllowed = scope.get(STILL_ALLOWED, _always)
    while True:
        message = asyncio.ensure_future(receive())
        try:
            while not message.done():
                await asyncio.wait({message}, timeout=CHECK_S)
                if not message.done() and not await still_allowed():
                    return
        finally:
            await end_all(message)
        if message.result()["type"] != "http.request":
            return


async def end_all(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for it. Any: of whatever they return."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _always() -> bool:
    return True
