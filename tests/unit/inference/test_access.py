from __future__ import annotations

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from fedfleet_inference_api.access import Access
from fedfleet_inference_api.metrics import Metrics


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret /path")


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}
    await send(start)
    raise RuntimeError("too late")


async def ask(app: Access) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get("/predict")


async def test_unexpected_exception_becomes_internal_and_is_logged(caplog):
    metrics = Metrics()

    response = await ask(Access(broken, metrics, lambda: False))

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "INTERNAL"
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret /path" in caplog.text
    assert b'fedfleet_inference_errors_total{code="INTERNAL"} 1.0' in metrics.render()
    assert b'requests_total{route="other",status="500"} 1.0' in metrics.render()


async def test_exception_after_half_an_answer_breaks_the_connection():
    with pytest.raises(RuntimeError, match="too late"):
        await ask(Access(half, Metrics(), lambda: False))


async def ended(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_answers_of_a_service_that_stops_close_their_connections():
    serving = await ask(Access(ended, Metrics(), lambda: False))
    draining = await ask(Access(ended, Metrics(), lambda: True))

    assert "connection" not in serving.headers
    assert draining.headers["connection"] == "close"
