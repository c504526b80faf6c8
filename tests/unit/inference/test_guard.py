"""What the guard does beside HTTP; test_keys.py and test_limits.py have the rest."""

from __future__ import annotations

from typing import Any

from starlette.types import Message, Receive, Scope, Send

from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.guard import Guard
from fedfleet_inference_api.metrics import Metrics


async def test_web_sockets_are_closed_and_the_start_passes():
    passed: list[str] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Guard(app, InferenceConfig(), None, Metrics())
    for kind in ("lifespan", "websocket"):
        scope: dict[str, Any] = {"type": kind, "path": "/predict", "headers": []}
        await guard(scope, receive, send)

    assert passed == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]
