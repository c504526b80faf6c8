"""Answers a request whose body nobody will read, so that the caller gets to see the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from starlette.types import Message, Receive, Scope, Send

from fedfleet.errors import FedFleetError
from fedfleet_inference_api.answers import error_response

# A refused caller that still sends is read for this long, so that it gets to see the answer
# instead of a connection that was reset under it.
LINGER_S = 2.0


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    error: FedFleetError,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer with an error; where a body is on its way, close the connection behind the answer."""
    if not has_body(scope):
        await error_response(error, headers, path=scope["path"])(scope, receive, send)
        return
    closing = {**(headers or {}), "connection": "close"}
    response = error_response(error, closing, path=scope["path"])

    async def keep_open(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "more_body": True}
        await send(message)

    await response(scope, receive, keep_open)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_drain(receive), LINGER_S)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def has_body(scope: Scope) -> bool:
    """Whether a request announced a body, of whatever size."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
