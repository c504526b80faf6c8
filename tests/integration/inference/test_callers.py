"""How long callers wait, what their requests are called; nothing is computed for nobody."""

from __future__ import annotations

import socket

import httpx
import pytest
from holding import decoders_held, model_held
from serving import png, publish, serving, wait_served, wait_until

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}


def ask(client: httpx.Client, timeout: str) -> tuple[int, str]:
    headers = {**IMAGE["headers"], "x-request-timeout": timeout}
    response = client.post("/predict", content=IMAGE["content"], headers=headers)
    body = response.json()
    return response.status_code, body["error"]["code"] if "error" in body else ""


def test_caller_says_how_long_it_waits_up_to_what_the_settings_allow(store):
    version = publish(store, seed=1)
    with serving(store, request_timeout_s=0.3) as (service, client):
        wait_served(service, version)
        quick = ask(client, "9")
        with model_held(service):
            held = [ask(client, "0.05"), ask(client, "1e9")]
        with decoders_held(service):
            undecoded = ask(client, "0.05")
        after = ask(client, "9")

    assert [quick, after] == [(200, "")] * 2
    assert [*held, undecoded] == [(504, "TIMED_OUT")] * 3


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon", "", "1 s"])
def test_timeout_that_is_no_time_is_refused(client, timeout):
    assert ask(client, timeout) == (400, "INVALID_INPUT")


@pytest.mark.parametrize("held", [model_held, decoders_held])
def test_nothing_is_computed_for_callers_who_have_left(store, held):
    version = publish(store, seed=1)
    with serving(store) as (service, client):
        wait_served(service, version)
        runs: list[int] = []
        backend = service.served().backend
        run = backend.run

        def counted(images: object) -> object:
            runs.append(len(images))
            return run(images)

        backend.run = counted
        body = IMAGE["content"]
        lines = ("POST /predict HTTP/1.1", "host: localhost", f"content-length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode()
        with held(service):
            callers = [
                socket.create_connection((client.base_url.host, client.base_url.port))
                for _ in range(3)
            ]
            for caller in callers:
                caller.sendall(head + body)
            wait_until(lambda: service.predictor.pending == 3)
            for caller in callers[:2]:
                caller.close()
            # The service hears of it on the same event loop that answers this.
            for _ in range(20):
                client.get("/livez")
        with callers[2]:
            callers[2].settimeout(30)
            answer = callers[2].recv(1000)
        wait_until(lambda: service.busy == 0)
        images = sum(runs)
        wait_until(lambda: 'status="aborted"} 2.0' in client.get("/metrics").text)
        metrics = client.get("/metrics").text

    assert 'fedfleet_inference_requests_total{route="/predict",status="200"} 1.0' in metrics
    assert 'status="400"' not in metrics
    assert "fedfleet_inference_errors_total{" not in metrics
    assert answer.startswith(b"HTTP/1.1 200")
    assert images == 1


def test_request_id_comes_back_or_is_made(client):
    own = client.post("/predict", headers={"x-request-id": "camera-7:42"}, content=png())
    made = [client.get("/livez").headers["x-request-id"] for _ in range(2)]
    odd = client.get("/livez", headers={"x-request-id": "a b<script>"})
    refused = client.get("/nothing", headers={"x-request-id": "7"})

    assert own.headers["x-request-id"] == "camera-7:42"
    assert made[0] != made[1]
    assert "script" not in odd.headers["x-request-id"]
    assert refused.headers["x-request-id"] == "7"
