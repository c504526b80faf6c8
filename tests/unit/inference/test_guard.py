"""What the guard does beside HTTP; test_keys.py and test_limits.py have the rest."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.guard import Guard
from fedfleet_inference_api.metrics import Metrics


async def unread() -> Message:
    raise AssertionError("nothing is read")


async def unsent(message: Message) -> None:
    raise AssertionError(f"the guard answers nothing: {message}")


async def talk(guard: Guard, kind: str, *headers: tuple[bytes, bytes]) -> list[Message]:
    """What the guard answers itself."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "path": "/events/ws", "headers": list(headers)}
    await guard(scope, unread, send)
    return sent


@pytest.mark.parametrize(
    ("headers", "is_passed"),
    [
        ((), True),
        (((b"host", b"localhost:8080"), (b"origin", b"http://localhost:8080")), True),
        (((b"host", b"LOCALHOST"), (b"origin", b"https://localhost")), True),
        (((b"host", b"localhost:8080"), (b"origin", b"http://there")), False),
        (((b"host", b"localhost"), (b"origin", b"http://localhost.there")), False),
        (((b"host", b"localhost"), (b"origin", b"null")), False),
        (((b"host", b"localhost"), (b"origin", b"http://[")), False),
        (((b"origin", b"http://localhost"),), False),
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


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "settings", "is_passed"),
    [
        (b"127.0.0.1:8080", {}, True),
        (b"127.0.0.1", {}, True),
        (b"[::1]:8080", {"host": "::1"}, True),
        (b"192.168.1.7:8080", {}, True),
        (b"localhost:8080", {}, True),
        (b"LocalHost.", {}, True),
        (b"evil.example:8080", {}, False),
        (b"evil.example", {}, False),
        (b"localhost.evil.example:8080", {}, False),
        (b"127.0.0.1.evil.example:8080", {}, False),
        (b"127.0.0.1@evil.example", {}, False),
        (b"[evil.example]", {}, False),
        (b"", {}, False),
        # Open to whoever reaches it: still not to the pages that these people read.
        (b"fleet.example", {"host": "0.0.0.0", "rest_auth": "off"}, False),
        (b"192.168.1.7:8080", {"host": "0.0.0.0", "rest_auth": "off"}, True),
        (b"", {"host": "", "rest_auth": "off"}, False),
        (b"fleet.lan:8080", {"host": "fleet.lan", "rest_auth": "off"}, True),
        (b"fleet.example", {"hostnames": frozenset({"fleet.example", "api"})}, True),
        (b"api.evil.example", {"hostnames": frozenset({"fleet.example", "api"})}, False),
        (b"any.example", {"hostnames": frozenset({"*"})}, True),
    ],
)
async def test_page_that_leads_its_own_name_here_is_answered_nothing(
    kind, host, settings, is_passed
):
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    guard = Guard(app, InferenceConfig(**settings), None, Metrics())

    # As a browser does: the page's origin is its own name, too.
    answer = await talk(guard, kind, (b"host", host), (b"origin", b"http://" + host.lower()))

    assert passed == [kind] * is_passed
    if not is_passed:
        assert answer[0]["status"] == 403
        assert b"NOT_ALLOWED" in answer[1]["body"]
        assert b"FEDFLEET_HOSTNAMES" in answer[1]["body"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"])
async def test_probes_are_answered_whatever_name_they_ask_by(path):
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])

    guard = Guard(app, InferenceConfig(), None, Metrics())
    headers = [(b"host", b"pod-7.cluster")]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
    await guard(scope, unread, unsent)

    assert passed == [path]
