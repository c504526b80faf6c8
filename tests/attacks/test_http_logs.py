"""What callers write never makes a line in the log, and never a series in the metrics."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import PATIENCE_S, png, publish, serving, wait_served

from fedfleet.store.open import open_store

FORGED = '{"event":"forged"}'
HOSTILE = (
    f"a\n{FORGED}\n",
    f"a\r\n{FORGED}",
    f"\x1b[2J\x1b[31m{FORGED}",
    f"\u2028{FORGED}\u2029",
    f'"}}\x00{FORGED}',
    "\x85" + FORGED,
    "x" * 3000,
)


@contextmanager
def logging_service(folder: str) -> Iterator[tuple[str, list[str]]]:
    """A process that asks for keys and logs all it can; its URL, and its lines once it is over."""
    child = subprocess.Popen(
        [sys.executable, "-m", "fedfleet_inference_api"],
        env={
            **os.environ,
            "FEDFLEET_STORE": f"sqlite:{folder}",
            "FEDFLEET_INFERENCE_PORT": "0",
            "FEDFLEET_REST_AUTH": "on",
            "FEDFLEET_RATE_PER_S": "0",
            "FEDFLEET_SIGNER": "none",
            "FEDFLEET_LOG_LEVEL": "debug",
            "FEDFLEET_TRUSTED_PROXIES": "127.0.0.1",
        },
        stderr=subprocess.PIPE,
    )
    timer = threading.Timer(PATIENCE_S, child.kill)
    timer.start()
    lines: list[str] = []
    assert child.stderr is not None
    try:
        for line in child.stderr:
            lines.append(line.decode("utf-8"))
            event = json.loads(lines[-1])
            if event["event"] == "listening":
                break
        reader = threading.Thread(
            target=lambda: lines.extend(line.decode("utf-8") for line in child.stderr)
        )
        reader.start()
        yield f"http://127.0.0.1:{event['port']}", lines
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0
        reader.join()
    finally:
        timer.cancel()
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.slow
def test_nothing_that_a_caller_sends_makes_a_line_in_the_log(tmp_path):
    with logging_service(str(tmp_path)) as (url, lines), httpx.Client(trust_env=False) as client:
        for text in HOSTILE:
            client.get(f"{url}/models/{quote(text[:500], safe='')}")
            client.request("PATCH", url, params={text[:500]: text[:500]})
            client.post(f"{url}/predict", files={"file": (text[:500], png())})
            for name in ("x-api-key", "authorization", "x-forwarded-for", "user-agent", "host"):
                _send_raw(url, name, text.encode("utf-8"))
                _send_raw(url, name, f"flk_{'0' * 16}_{'0' * 40}".encode())
        _send_raw(url, "x", b"y\n" + FORGED.encode())

    for line in lines:
        record = json.loads(line)  # one line, one record
        assert record["event"] != "forged"
        assert line.isascii()
        assert line.rstrip("\n").isprintable()
    events = {json.loads(line)["event"] for line in lines}
    assert {"listening", "stopping", "stopped", "key_refused"} <= events


def _send_raw(url: str, name: str, value: bytes) -> None:
    """As no library would: the value may break the header."""
    parts = httpx.URL(url)
    with socket.create_connection((parts.host, parts.port), timeout=PATIENCE_S) as caller:
        head = f"GET /served HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{name}: ".encode()
        caller.sendall(head + value + b"\r\n\r\n")
        while caller.recv(1 << 16):
            pass


def label_values(client: httpx.Client) -> set[tuple[str, str, str]]:
    return {
        (sample.name, label, value)
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        for label, value in sample.labels.items()
    }


def test_callers_make_no_label_in_the_metrics(tmp_path):
    with open_store(f"sqlite:{tmp_path}") as store:
        version = publish(store, seed=1)
        with serving(store) as (service, client):
            wait_served(service, version)
            for path in ("/nothing", "/models/x"):  # the first of each kind may make a series
                client.get(path)
            client.request("BREW", "/predict")
            client.get("/models?limit=0")
            client.post("/predict", content=b"x", headers={"content-type": "text/x"})
            label_values(client)
            before = label_values(client)
            for number in range(50):
                name = f"{number}{'x' * 200}\n{{"
                headers = {"content-type": f"text/x{number}", "x-api-key": f"{number}"}
                client.get(f"/{quote(name)}", headers=headers)
                client.get(f"/models/{quote(name[:100])}", headers=headers)
                client.request(f"BREW{number}", "/predict", headers=headers)
                client.get(f"/models?limit=-{number}", headers=headers)
                client.post("/predict", params={name: name}, content=b"x", headers=headers)
                client.post("/predict", content=b"x", headers=headers)

            assert label_values(client) == before
    assert max(len(value) for _, _, value in before) < 100
