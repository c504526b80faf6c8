from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filming import PATIENCE_S, camera, eventually, filming
from video import write_video

from fedfleet.errors import NotFound
from fedfleet_inference_api.cameras import fleet
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.process import CameraProcess
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.sleeper import Sleeper
from fedfleet_inference_api.cameras.status import Status

STREAMING, BACKOFF = CameraState.STREAMING, CameraState.BACKOFF
MIB = 1 << 20


def frames(count: int, height: int = 120, width: int = 160) -> Iterable[np.ndarray]:
    for number in range(count):
        yield np.full((height, width, 3), number * 8 % 256, np.uint8)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "walk.mp4"
    write_video(path, frames(25), fps=25)
    return path


def test_file_is_played_in_its_own_time_once_or_for_ever(video):
    once = camera("once", f"file:{video}", fps=100.0, loop=False)
    always = camera("always", f"file:{video}", fps=100.0)

    with filming(once, always) as film:
        started = film.until("once", STREAMING, CameraCode.NONE)
        ended = film.until("once", CameraState.STOPPED, CameraCode.ENDED)
        last = film.cameras.newest("once")
        frame = film.cameras.wait("always", 25, PATIENCE_S)
        status = film.cameras.status("always")

    assert 0.7 < ended.since_s - started.since_s < 3.0, "a second of video, not as fast as it can"
    assert last is not None
    assert (last.sequence, last.media_s) == (25, pytest.approx(0.96))
    assert frame is not None
    assert frame.sequence > 25, "begun again"
    assert (status.state, status.restarts, status.codec) == (STREAMING, 0, "h264")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("none.mp4", None, CameraCode.NOT_FOUND),
        ("text.mp4", b"not a video at all" * 100, CameraCode.FAILED),
    ],
)
def test_file_that_is_no_video_says_so(tmp_path, name, content, code):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with filming(camera("file", f"file:{tmp_path / name}")) as film:
        film.until("file", BACKOFF, code)


def test_hanging_process_is_killed_and_does_not_hold_up_another(video):
    url = f"file:{video}"
    cameras = [camera(name, url, fps=50.0, stall_s=1.0) for name in ("hangs", "runs")]

    with filming(*cameras) as film:
        for each in cameras:
            film.until(each.name, STREAMING, CameraCode.NONE)
        hanging = film.cameras.pid("hangs")
        os.kill(hanging, signal.SIGSTOP)
        longest_s, last_s, sequence = 0.0, time.monotonic(), 0
        while film.of("hangs")[-1][0] is not BACKOFF:
            frame = film.cameras.wait("runs", sequence, PATIENCE_S)
            assert frame is not None
            now_s = time.monotonic()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s
            sequence = frame.sequence
        states = film.of("hangs")
        seen = len(states)
        film.until("hangs", STREAMING, CameraCode.NONE, after=seen)

    assert states[-2:] == [
        (CameraState.STALLED, CameraCode.STALLED),
        (BACKOFF, CameraCode.STALLED),
    ]
    assert longest_s < 1.0
    assert not psutil.pid_exists(hanging)


def test_killed_process_is_started_again_and_the_count_goes_on(video):
    with filming(camera("door", f"file:{video}", fps=50.0)) as film:
        film.until("door", STREAMING, CameraCode.NONE)
        frame = film.cameras.wait("door", 5, PATIENCE_S)
        assert frame is not None
        os.kill(film.cameras.pid("door"), signal.SIGKILL)
        film.until("door", BACKOFF, CameraCode.DIED)
        kept = film.cameras.newest("door")
        assert kept is not None, "the last frame stays until there is another"
        frame = film.cameras.wait("door", kept.sequence, PATIENCE_S)
        status = film.cameras.status("door")

    assert frame is not None
    assert status.restarts == 1


def test_removed_camera_is_gone_and_its_waiters_with_it(video):
    with filming(camera("door", f"file:{video}"), camera("gate", f"file:{video}")) as film:
        film.until("door", STREAMING, CameraCode.NONE)
        pid = film.cameras.pid("door")
        film.cameras.remove("door")

        assert film.cameras.names() == ["gate"]
        with pytest.raises(NotFound):
            film.cameras.wait("door", 0, PATIENCE_S)
        film.until("door", CameraState.STOPPED, CameraCode.NONE)
        assert not psutil.pid_exists(pid)


def test_process_is_small_starts_quickly_and_can_neither_write_nor_grow(video):
    started_s = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import fedfleet_inference_api.cameras.child"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    took_s = time.monotonic() - started_s
    heavy = {"torch", "fastapi", "starlette", "pydantic", "PIL", "redis"}
    imported = {line.rsplit("|", 1)[-1].strip() for line in child.stderr.splitlines()}

    with filming(camera("door", f"file:{video}")) as film:
        film.until("door", STREAMING, CameraCode.NONE)
        process = psutil.Process(film.cameras.pid("door"))
        resident = process.memory_info().rss
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii")

    parent = "import sys, fedfleet_inference_api.cameras.fleet; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", parent], check=False).returncode == 0, (
        "what decodes is in the camera's process alone"
    )
    assert not imported & heavy
    assert took_s < 5.0  # 0.2 on an idle machine; this one may be busy
    assert resident < 120 * MIB
    for what, limit in [("address space", 1024 * MIB), ("file size", 0), ("core file size", 0)]:
        line = next(line for line in limits.splitlines() if line.startswith(f"Max {what}"))
        assert str(limit) in line.split()


def test_process_that_needs_more_memory_than_it_may_have_fails_alone(tmp_path):
    path = tmp_path / "large.mp4"
    write_video(path, frames(3, 1440, 2560), fps=5)
    large = camera("large", f"file:{path}", max_side=2560)

    with filming(large, memory_mb=160) as film:
        assert film.until("large", BACKOFF, CameraCode.FAILED)


_PARENT = """
import sys, time
from filming import camera, filming
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.status import Status

with filming(camera("door", sys.argv[1])) as film:
    film.until("door", CameraState.STREAMING, CameraCode.NONE)
    print(film.cameras.pid("door"), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("is_stopped", [False, True])
def test_process_does_not_outlive_a_service_that_is_killed(video, is_stopped):
    service = subprocess.Popen(
        [sys.executable, "-c", _PARENT, f"file:{video}"],
        cwd=Path(__file__).parents[2],  # where filming.py is
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert service.stdout is not None
    pid = int(service.stdout.readline())
    if is_stopped:
        os.kill(pid, signal.SIGSTOP)

    service.kill()
    service.communicate()

    eventually(lambda: not _is_running(pid), "the process of a camera was left behind")


def _is_running(pid: int) -> bool:
    """A zombie is none: in a container without an init nobody takes its status."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stopped_cameras_hold_no_file():
    gone = camera("gone", "file:/none.mp4")
    before = open_files()
    for _ in range(5):
        fleet = Cameras([gone], CameraNetworks(), lambda name, status: None)
        fleet.start()
        fleet.remove("gone")
        fleet.stop()

    assert open_files() == before


def test_listener_that_fails_stops_no_camera(caplog):
    def fail(name: str, status: Status) -> None:
        raise RuntimeError("a listener's own trouble")

    gone = camera("gone", "file:/none.mp4")
    fleet = Cameras([gone], CameraNetworks(), fail)
    fleet.start()
    eventually(lambda: fleet.status("gone").state is CameraState.BACKOFF, "it goes on")
    fleet.stop()

    assert fleet.status("gone").state is CameraState.STOPPED
    assert "camera_supervisor_failed" in caplog.text


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@contextmanager
def no_file_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 8
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_moment_without_file_descriptors_ends_no_supervision(video):
    with filming(camera("door", f"file:{video}", fps=50.0)) as film:
        film.until("door", STREAMING, CameraCode.NONE)
        with no_file_left():
            frame = film.cameras.wait("door", film.cameras.status("door").frames + 5, PATIENCE_S)
            assert frame is not None, "what its process tells is heard"
            os.kill(film.cameras.pid("door"), signal.SIGKILL)
            film.until("door", BACKOFF, CameraCode.DIED)
        film.until("door", STREAMING, CameraCode.NONE, after=len(film.of("door")))


def test_supervisor_goes_on_after_an_error_of_its_own(monkeypatch, caplog, video):
    sleep, failures = Sleeper.sleep, iter(range(3))

    def sometimes(self: Sleeper, *args: Any) -> None:
        if next(failures, None) is not None:
            raise OSError("no memory for that")
        sleep(self, *args)

    monkeypatch.setattr(Sleeper, "sleep", sometimes)
    monkeypatch.setattr(fleet, "PAUSE_S", 0.01)
    with filming(camera("door", f"file:{video}")) as film:
        film.until("door", STREAMING, CameraCode.NONE)

    said = [one.message for one in caplog.records if one.message == "cameras_supervisor_failed"]
    assert len(said) == 1, "three in a row are told of once"


def test_stop_waits_no_longer_than_it_may_for_a_process_that_cannot_be_ended(monkeypatch):
    monkeypatch.setattr(fleet, "STOP_S", 0.5)
    for way in ("terminate", "kill"):
        monkeypatch.setattr(CameraProcess, way, lambda self: None)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live"
        with filming(camera("stuck", url, stall_s=300.0)) as film:
            film.until("stuck", CameraState.CONNECTING, CameraCode.NONE)
            process = film.cameras._keepers["stuck"].process
            assert process is not None
            started_s = time.monotonic()
            film.cameras.stop()
            took_s = time.monotonic() - started_s
        process._process.kill()
        process._process.wait()
        process.close(with_ring=True)

    assert 0.4 < took_s < 2.5
