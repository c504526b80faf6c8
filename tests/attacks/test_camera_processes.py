"""A camera that has taken over the process that decodes it can do nothing but fail."""

from __future__ import annotations

import platform
import sys
import time
import uuid
from collections.abc import Iterator

import psutil
import pytest
from filming import PATIENCE_S, camera, eventually, filming

from fedfleet_inference_api.cameras import keeper, process, watchdog
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState

MIB = 1 << 20
IS_CONFINED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


@pytest.mark.parametrize(
    "how", ["nonsense", "endless", "last-number", "flood-of-frames", "flood-of-faults"]
)
def test_process_that_tells_nonsense_is_killed(monkeypatch, caplog, how):
    monkeypatch.setattr(process, "MODULE", "hostile_child")
    before = psutil.Process().memory_info().rss

    with filming(camera(how, "rtsp://127.0.0.1:1/")) as film:
        film.until(how, CameraState.BACKOFF, CameraCode.FAILED)

    starts = 1 + sum(
        record.message == "camera_process_speaks_nonsense" for record in caplog.records
    )
    faults = sum(record.message == "camera_process_failed" for record in caplog.records)
    assert faults <= starts, "it fills no log"
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


def test_frame_that_was_not_told_of_hides_no_other(monkeypatch):
    monkeypatch.setattr(process, "MODULE", "hostile_child")

    with filming(camera("ring-number", "rtsp://127.0.0.1:1/")) as film:
        frame = film.cameras.wait("ring-number", 0, PATIENCE_S)

    assert frame is not None
    assert frame.sequence == 1


def test_frame_of_another_time_is_not_shown(monkeypatch):
    monkeypatch.setattr(process, "MODULE", "hostile_child")

    with filming(camera("ring-time", "rtsp://127.0.0.1:1/")) as film:
        film.until("ring-time", CameraState.STREAMING, CameraCode.NONE)
        frame = film.cameras.newest("ring-time")

    assert frame is None


@pytest.fixture
def unique() -> Iterator[str]:
    """The end of the name of a camera whose process copies itself; ends the copies."""
    unique = str(uuid.uuid4())
    yield unique
    for copy in psutil.process_iter():
        try:
            if copy.cmdline()[-1:] and copy.cmdline()[-1].endswith(unique):
                copy.kill()
        except psutil.Error:  # it has gone meanwhile
            continue


@pytest.mark.parametrize(("how", "code"), [("copy-stays", "DIED"), ("copy", "TIMEOUT")])
def test_copy_that_holds_the_pipe_does_not_keep_its_camera_from_being_connected_again(
    monkeypatch, unique, how, code
):
    monkeypatch.setattr(process, "MODULE", "hostile_child")
    monkeypatch.setattr(watchdog, "LEAST_START_S", 0.5)
    monkeypatch.setattr(keeper, "KILL_S", 0.5)
    name = f"{how}-{unique}"

    with filming(camera(name, "rtsp://127.0.0.1:1/", stall_s=0.5)) as film:
        film.until(name, CameraState.BACKOFF, CameraCode[code])
        eventually(lambda: film.cameras.status(name).restarts > 0, "it is started again")


@pytest.mark.skipif(not IS_CONFINED, reason="no filter of system calls for this processor")
def test_process_can_start_no_other(monkeypatch, caplog):
    monkeypatch.setattr(process, "MODULE", "hostile_child")

    with filming(camera("starts-processes", "rtsp://127.0.0.1:1/")):
        eventually(
            lambda: any(one.message == "camera_process_failed" for one in caplog.records),
            "it tells what came of it",
        )

    record = next(one for one in caplog.records if one.message == "camera_process_failed")
    assert vars(record)["fault"] == " ".join(["PermissionError"] * 4), "of a thread and the first"
