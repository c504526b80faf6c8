"""Callers that do not read; test_http_slow_callers.py has those that do not write."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from fedfleet_inference_api.http_protocol import TimedProtocol

STALL_S = 0.2
SIZE = 60_000  # more than the sockets hold, less than the event loop's buffer tells of by itself


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"connection", b"close"), (b"content-length", str(SIZE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


class Observed(TimedProtocol):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


async def connect(*, body_s: float = 30.0) -> tuple[Observed, socket.socket]:
    """A connection to the application, of sockets with small buffers."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    config = uvicorn.Config(answers, log_config=None, lifespan="off", ws="none")
    config.load()
    loop = asyncio.get_running_loop()
    protocol = Observed(
        stall_s=STALL_S,
        body_s=body_s,
        config=config,
        server_state=ServerState(),
        app_state={},
        _loop=loop,
    )
    await loop.connect_accepted_socket(lambda: protocol, ours)
    theirs.setblocking(False)
    await loop.sock_sendall(theirs, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    return protocol, theirs


async def test_answer_that_is_not_read_does_not_keep_a_closed_connection():
    protocol, caller = await connect()

    with caller:
        await asyncio.wait_for(protocol.lost.wait(), 10)

    assert protocol.server_state.connections == set()


@pytest.mark.parametrize(("body_s", "is_whole"), [(30.0, True), (STALL_S, False)])
async def test_answer_that_is_read_slowly_is_sent_while_there_is_time(body_s, is_whole):
    protocol, caller = await connect(body_s=body_s)
    came = 0
    with caller:
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(caller, 4000):
            came += len(piece)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(protocol.lost.wait(), STALL_S / 6)
        await asyncio.wait_for(protocol.lost.wait(), 10)

    assert (came > SIZE) is is_whole
