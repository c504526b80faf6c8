"""What the guard does beside HTTP; test_keys.py and test_limits.py have the rest."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.guard import Guard
from fedfleet_inference_api.metrics import Metrics


async def talk(guard: Guard, kind: str, *headers: tuple[bytes, bytes]) -> list[Message]:
    """What the guard answers itself."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "path": "/events/ws", "headers": list(headers)}
    await guard(scope, receive, send)
    return sent


@pytest.mark.parametrize(
    ("headers", "is_passed"),
    [
        ((), True),
        (((b"host", b"here:8080"), (b"origin", b"http://here:8080")), True),
        (((b"host", b"HERE"), (b"origin", b"https://here")), True),
        (((b"host", b"here:8080"), (b"origin", b"http://there")), False),
        (((b"host", b"here"), (b"origin", b"http://here.there")), False),
        (((b"host", b"here"), (b"origin", b"null")), False),
        (((b"host", b"here"), (b"origin", b"http://[")), False),
        (((b"origin", b"http://here"),), False),
    ],
)
async def test_web_sockets_are_opened_by_pages_of_this_host_only(headers, is_passed):
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    guard = Guard(app, InferenceConfig(), None, Metrics())
    assert await talk(guard, "lifespan") == []

    answer = await talk(guard, "websocket", *headers)

    assert passed == ["lifespan", "websocket"][: 1 + is_passed]
    if not is_passed:
        assert answer[0]["type"] == "websocket.http.response.start"
        assert answer[0]["status"] == 403
