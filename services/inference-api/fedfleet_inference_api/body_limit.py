"""Refuses a request body that is too large before anything parses it."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedfleet.errors import BodyTooLarge
from fedfleet_inference_api.answers import error_response

# A refused caller that still sends is read for this long, so that it gets to see the answer
# instead of a connection that was reset under it.
LINGER_S = 2.0


class _TooLarge(Exception):
    """Raised into whoever reads the body; no handler of the application knows it."""


class BodyLimit:
    """Counts the bytes of each body as they stream in.

    Works on the ASGI messages: frameworks read and spool a multipart body before the handler runs.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced_bytes(scope) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen_bytes = 0

        async def counted() -> Message:
            nonlocal seen_bytes
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > self._max_bytes:
                raise _TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except _TooLarge:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = BodyTooLarge(f"the request's body has more than {self._max_bytes:,} bytes")
        response = error_response(error, headers={"connection": "close"})

        async def keep_open(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "more_body": True}
            await send(message)

        await response(scope, receive, keep_open)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_drain(receive), LINGER_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _announced_bytes(scope: Scope) -> int:
    """The Content-Length, 0 where there is none; the server has checked that it is a number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return 0


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
