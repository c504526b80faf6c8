"""Refuses a request body that is too large, or one too many, before anything parses it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedfleet.errors import BodyTooLarge, FedFleetError, Unavailable
from fedfleet_inference_api.refusal import refuse

# In a request's scope, called with each number of bytes that are held for it beside its body.
HOLD = "fedfleet.hold"
Hold = Callable[[int], None]


class _Refused(Exception):
    """Raised into whoever reads the body; no handler of the application knows it."""

    def __init__(self, error: FedFleetError) -> None:
        super().__init__(error.message)
        self.error = error


class BodyLimit:
    """Counts the bytes of each body as they stream in, and those of all bodies together.

    Works on the ASGI messages: frameworks read and spool a multipart body before the handler runs.

    Args:
        max_bytes: of one body.
        in_flight_bytes: of all bodies whose requests are not answered yet, and of what is fetched
            for them. What counts is what has come, so that a caller that announces much and sends
            little keeps nobody out.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, in_flight_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._in_flight_bytes = in_flight_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced_bytes(scope) > self._max_bytes:
            await refuse(scope, receive, send, self._too_large())
            return
        seen_bytes = held_bytes = 0

        def hold(came_bytes: int) -> None:
            nonlocal held_bytes
            held_bytes += came_bytes
            self._held_bytes += came_bytes
            if self._held_bytes > self._in_flight_bytes:
                raise Unavailable("too many requests are being received: try again in a second")

        async def counted() -> Message:
            nonlocal seen_bytes
            message = await receive()
            came_bytes = len(message.get("body", b""))
            seen_bytes += came_bytes
            if seen_bytes > self._max_bytes:
                raise _Refused(self._too_large())
            try:
                hold(came_bytes)
            except Unavailable as error:
                raise _Refused(error) from error
            return message

        scope[HOLD] = hold
        try:
            await self._app(scope, counted, send)
        except _Refused as refused:
            self._held_bytes -= held_bytes
            held_bytes = 0
            await refuse(scope, receive, send, refused.error)
        finally:
            self._held_bytes -= held_bytes

    def _too_large(self) -> FedFleetError:
        return BodyTooLarge(f"the request's body has more than {self._max_bytes:,} bytes")


def _announced_bytes(scope: Scope) -> int:
    """The Content-Length, 0 where there is none; the server has checked that it is a number."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return 0
