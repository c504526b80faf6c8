"""Cameras that callers add, over a death of the service, and a service whose file is damaged."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from filming import PASSWORD, USER
from mjpeg_server import MjpegServer
from serving import PATIENCE_S, png, publish, serving, wait_served, wait_until

from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.cameras.kept import KeptCameras
from fedfleet_inference_api.cameras.networks import parse_camera_networks

LOCAL = parse_camera_networks("127.0.0.1/32")


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cameras.json"


@contextmanager
def process(**settings: object) -> Iterator[httpx.Client]:
    """The service as a process, which is killed in the end."""
    own = {f"FEDFLEET_{name.upper()}": str(value) for name, value in settings.items()}
    shared = {"FEDFLEET_THREADS": "1", "FEDFLEET_SIGNER": "none", "FEDFLEET_INFERENCE_PORT": "0"}
    command = [sys.executable, "-m", "fedfleet_inference_api"]
    environ = {**os.environ, **shared, **own}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as child:
        timer = threading.Timer(PATIENCE_S, child.kill)  # reading the log must not wait for ever
        timer.start()
        try:
            assert child.stderr is not None
            port = next(
                event["port"]
                for event in map(json.loads, child.stderr)
                if event["event"] == "listening"
            )
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                yield client
        finally:
            timer.cancel()
            child.kill()


def state(client: httpx.Client, name: str) -> tuple[str, str]:
    status = client.get(f"/cameras/{name}").json()["status"]
    return status["state"], status["code"]


def test_camera_that_was_answered_for_outlives_a_killed_service_and_a_removed_one_does_not(
    path, tmp_path
):
    server = MjpegServer(USER, PASSWORD)
    settings = {
        "store": f"sqlite:{tmp_path / 'state'}",
        "cameras_kept": path,
        "camera_networks": "127.0.0.1/32",
        "camera_ports": server.port,
    }
    body = {"name": "yard", "url": f"http://127.0.0.1:{server.port}/digest"}
    try:
        with process(**settings) as client:
            for name in ("yard", "door"):
                own = {"name": name, "user": USER, "password": PASSWORD, "fps": 3}
                assert client.post("/cameras", json={**body, **own}).json()["kept"] is True
            assert client.delete("/cameras/door").status_code == 204
        with process(**settings) as client:
            listed = client.get("/cameras")
            wait_until(lambda: state(client, "yard") == ("streaming", ""))
            removed = client.delete("/cameras/yard")
    finally:
        server.close()

    (camera,) = listed.json()["cameras"]
    assert (camera["name"], camera["fps"], camera["kept"]) == ("yard", 3.0, True)
    assert PASSWORD not in listed.text
    assert removed.status_code == 204
    assert KeptCameras(path).cameras == ()


def test_camera_that_may_not_be_there_any_more_says_so_and_may_be_removed(store, path):
    body = {"name": "door", "url": "rtsp://127.0.0.1:8554/door", "user": "me", "password": "hush"}
    with serving(store, camera_networks=LOCAL, cameras_kept=path) as (_, client):
        assert client.post("/cameras", json=body).status_code == 201

    # Another network, and then none at all: callers may add nothing, and this one is still theirs.
    for networks in (parse_camera_networks("10.0.0.0/8"), parse_camera_networks("")):
        with serving(store, camera_networks=networks, cameras_kept=path) as (_, client):
            wait_until(lambda client=client: state(client, "door") == ("stopped", "not_allowed"))
            if not networks:
                assert client.delete("/cameras/door").status_code == 204
                left = {"cameras": [], "fault": "", "may_add": False}
                assert client.get("/cameras").json() == left

    assert KeptCameras(path).cameras == ()


def test_name_that_leads_elsewhere_now_is_not_allowed_rather_than_unreachable(tmp_path, store):
    file = tmp_path / "cameras.toml"
    file.write_text('[[camera]]\nname = "door"\nurl = "rtsp://localhost:8554/door"\n')
    networks = parse_camera_networks("10.0.0.0/8")
    with serving(store, cameras=file, camera_networks=networks) as (_, client):
        wait_until(lambda: state(client, "door") == ("backoff", "not_allowed"))


@pytest.mark.parametrize(
    ("data", "mode", "reason"),
    [
        (b'{"cameras": [{"name": "door", "url": "rtsp://me:hush-hush@10.', 0o600, "must be JSON"),
        (b'{"cameras": []}', 0o644, "others may read or change it (mode 644)"),
    ],
)
def test_service_whose_file_is_damaged_answers_predictions_and_says_what_is_wrong(
    store, path, caplog, data, mode, reason
):
    path.write_bytes(data)
    path.chmod(mode)
    version = publish(store, seed=1)
    body = {"name": "door", "url": "rtsp://127.0.0.1:8554/door"}
    caplog.set_level(logging.INFO)
    with serving(store, camera_networks=LOCAL, cameras_kept=path) as (service, client):
        wait_served(service, version)
        answer = client.post("/predict", content=png())
        ready = client.get("/readyz")
        metrics = client.get("/metrics").text
        listed = client.get("/cameras").json()
        added = client.post("/cameras", json=body)

    assert (answer.status_code, ready.status_code) == (200, 200)
    assert (
        f"serving digits version 1 (round 1); FEDFLEET_CAMERAS_KEPT: {reason}"
        in ready.json()["detail"]
    )
    assert str(path) not in ready.text
    assert "fedfleet_inference_kept_cameras_unusable 1.0" in metrics
    assert (listed["cameras"], listed["fault"]) == ([], ready.json()["detail"].partition("; ")[2])
    assert (added.status_code, added.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert reason in added.json()["error"]["message"]
    assert "kept_cameras_unusable" in caplog.messages
    assert "hush-hush" not in caplog.text + ready.text + added.text
    assert path.read_bytes() == data
