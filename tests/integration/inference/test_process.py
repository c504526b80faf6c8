"""The service as a process: how it starts, how it refuses to start, how it stops."""

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
from pathlib import Path

import httpx
import pytest
from serving import PATIENCE_S, png, publish, wait_until

COMMAND = [sys.executable, "-m", "fedfleet_inference_api"]


def environ(state: Path, **settings: object) -> dict[str, str]:
    own = {f"FEDFLEET_{name.upper()}": str(value) for name, value in settings.items()}
    shared = {"FEDFLEET_THREADS": "1", "FEDFLEET_SIGNER": "none"}
    return {**os.environ, "FEDFLEET_STORE": f"sqlite:{state}", **shared, **own}


class Process:
    """A started service; reads the JSON lines that it logs."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self.events: list[dict[str, object]] = []
        self.url = f"http://127.0.0.1:{self.wait_event('listening')['port']}"

    def wait_event(self, name: str) -> dict[str, object]:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == name:
                return self.events[-1]
        raise AssertionError(f"ended before {name}: {self.events}")


@contextmanager
def process(state: Path, **settings: object) -> Iterator[Process]:
    child = subprocess.Popen(
        COMMAND, env=environ(state, inference_port=0, **settings), stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(PATIENCE_S, child.kill)  # reading the log must not wait for ever
    timer.start()
    try:
        yield Process(child)
    finally:
        timer.cancel()
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def refused(state: Path, **settings: object) -> tuple[int, list[str]]:
    """Exit status and the lines on stderr that are no log records."""
    done = subprocess.run(
        COMMAND,
        env=environ(state, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, [x for x in done.stderr.splitlines() if not x.startswith("{")]


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight_and_exits_0(tmp_path, store):
    publish(store, seed=1)
    with (
        process(tmp_path / "state") as service,
        httpx.Client(base_url=service.url, timeout=PATIENCE_S, trust_env=False) as client,
    ):
        service.wait_event("version_served")
        release = threading.Event()
        answers: list[httpx.Response] = []

        def slow() -> Iterator[bytes]:
            yield png()[:10]
            release.wait()
            yield png()[10:]

        upload = threading.Thread(
            target=lambda: answers.append(client.post("/predict", content=slow()))
        )
        upload.start()
        wait_until(lambda: "pending_predictions 1.0" in client.get("/metrics").text)
        service.child.send_signal(signal.SIGTERM)
        stopping = service.wait_event("stopping")
        not_ready = client.get("/readyz")
        release.set()
        upload.join()

        assert stopping["pending"] == 1
        assert (not_ready.status_code, not_ready.json()["detail"]) == (503, "shutting down")
        assert answers[0].status_code == 200
        assert service.child.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_sigterm_drains_first_and_answers_meanwhile(tmp_path, store):
    publish(store, seed=1)
    with (
        process(tmp_path / "state", drain_s=60) as service,
        httpx.Client(base_url=service.url, timeout=PATIENCE_S, trust_env=False) as client,
    ):
        service.wait_event("version_served")
        service.child.send_signal(signal.SIGTERM)
        service.wait_event("stopping")
        answers = [client.post("/predict", content=png()) for _ in range(3)]
        not_ready, alive = client.get("/readyz"), client.get("/livez")
        service.child.send_signal(signal.SIGTERM)  # who is in a hurry says it twice

        assert service.child.wait(PATIENCE_S) == 0
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert (not_ready.status_code, alive.status_code) == (503, 200)


@pytest.mark.slow
def test_sigterm_while_nothing_is_served_exits_0(tmp_path):
    with process(tmp_path / "state") as service:
        service.child.send_signal(signal.SIGTERM)

        assert service.child.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_port_in_use_is_one_line_with_its_code(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        status, lines = refused(tmp_path / "state", inference_port=port)

    assert status != 0
    (line,) = lines
    assert line.startswith(f"fedfleet-inference-api: ADDRESS_IN_USE: port {port} ")
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "code", "named"),
    [
        ({"host": "0.0.0.0"}, "INSECURE_ADDRESS", "FEDFLEET_INSECURE"),
        ({"host": "203.0.113.7", "insecure": 1}, "SETTING_INVALID", "FEDFLEET_HOST"),
        ({"inference_port": 70000}, "SETTING_INVALID", "FEDFLEET_INFERENCE_PORT"),
        ({"log_level": "loud"}, "SETTING_INVALID", "'loud'"),
        (
            {"store": "redis://nowhere", "signer": "", "inference_port": 0},
            "SETTING_INVALID",
            "FEDFLEET_SIGNER",
        ),
        ({"store": "nowhere", "inference_port": 0}, "SETTING_INVALID", "'nowhere'"),
        ({"inference_certificate": "/nowhere"}, "SETTING_INVALID", "set both"),
        (
            {"inference_certificate": "/nowhere", "inference_key": "/nowhere"},
            "SETTING_INVALID",
            "No such file",
        ),
    ],
)
def test_bad_setting_is_one_line_with_its_code(tmp_path, settings, code, named):
    status, lines = refused(tmp_path / "state", **settings)

    assert status != 0
    (line,) = lines
    assert line.startswith(f"fedfleet-inference-api: {code}: ")
    assert named in line


@pytest.mark.slow
def test_insecure_address_is_served_with_a_warning_at_start(tmp_path):
    with process(tmp_path / "state", host="0.0.0.0", insecure=1) as service:
        status = httpx.get(f"{service.url}/livez", trust_env=False).status_code

    (warning,) = (event for event in service.events if event["event"] == "insecure_endpoint")
    assert status == 200
    assert (warning["level"], warning["host"]) == ("warning", "0.0.0.0")


START_FAILS = """
from fedfleet_inference_api.cameras.station import Station

def fail(station):
    raise RuntimeError("can't start new thread")

Station.start = fail  # the last part: all others run already
from fedfleet_inference_api.__main__ import main
main()
"""


@pytest.mark.slow
def test_start_that_fails_half_way_ends_the_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", START_FAILS],
        env=environ(tmp_path / "state", inference_port=0),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode != 0
    assert "can't start new thread" in done.stderr
