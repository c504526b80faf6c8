"""A camera that has taken over the process that decodes it can do nothing but fail."""

from __future__ import annotations

import time

import psutil
import pytest
from filming import camera, eventually, filming

from fedfleet_inference_api.cameras import process
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState

MIB = 1 << 20


@pytest.mark.parametrize("how", ["nonsense", "endless", "last-number"])
def test_process_that_tells_nonsense_is_killed(monkeypatch, how):
    monkeypatch.setattr(process, "MODULE", "hostile_child")
    before = psutil.Process().memory_info().rss

    with filming(camera(how, "rtsp://127.0.0.1:1/")) as film:
        film.until(how, CameraState.BACKOFF, CameraCode.FAILED)

    assert psutil.Process().memory_info().rss - before < 64 * MIB


def test_process_that_tells_of_frames_and_has_none_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(process, "MODULE", "hostile_child")
    name = "frames-that-are-not-there"

    with filming(camera(name, "rtsp://127.0.0.1:1/")) as film:
        film.until(name, CameraState.STREAMING, CameraCode.NONE)
        started_s = time.monotonic()
        frame = film.cameras.wait(name, 0, 0.5)
        took_s = time.monotonic() - started_s
        pid = film.cameras.pid(name)

    assert frame is None
    assert 0.4 < took_s < 5.0
    eventually(lambda: not psutil.pid_exists(pid), "it ignores SIGTERM, and must go all the same")
