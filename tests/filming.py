"""Cameras for tests: GStreamer's RTSP server as a process, cameras that film it, and waiting."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.fleet import Cameras
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.secrets import Secret
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.status import Status

# The system's, which has GStreamer's bindings; the virtual environment has not.
PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")
_NEEDED = """
import gi
for name in ("Gst", "GstRtsp", "GstRtspServer"):
    gi.require_version(name, "1.0")
from gi.repository import Gst
Gst.init(None)
for name in ("x264enc", "x265enc", "rtph265pay", "jpegenc", "theoraenc", "alawenc"):
    assert Gst.ElementFactory.find(name), name + " of GStreamer is missing"
"""
USER = "operator"
# All that breaks a URL that is put together carelessly.
PASSWORD = "p@ss:w%41rd/?#é"
PATIENCE_S = 30.0


def missing_server() -> str:
    """Why the server cannot run here, empty where it can."""
    if not Path(PYTHON).exists():
        return f"needs {PYTHON} with GStreamer's RTSP server"
    done = subprocess.run(
        [PYTHON, "-c", _NEEDED], capture_output=True, text=True, check=False, timeout=60
    )
    return f"needs GStreamer's RTSP server: {done.stderr[-200:]}" if done.returncode else ""


class RtspServer:
    """See rtsp_server.py."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [PYTHON, str(SERVER), str(port), USER, PASSWORD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port, self.guarded_port = map(int, self._process.stdout.readline().split())

    def order(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Filming:
    """Running cameras, and every state they were in."""

    def __init__(self, cameras: Sequence[Camera], networks: CameraNetworks, **more: Any) -> None:
        self.states: list[tuple[str, Status]] = []
        self._changed = threading.Condition()
        self.cameras = Cameras(cameras, networks, self._note, **more)

    def _note(self, name: str, status: Status) -> None:
        with self._changed:
            self.states.append((name, status))
            self._changed.notify_all()

    def of(self, name: str) -> list[tuple[CameraState, CameraCode]]:
        with self._changed:
            return [(status.state, status.code) for one, status in self.states if one == name]

    def until(self, name: str, state: CameraState, code: CameraCode, *, after: int = 0) -> Status:
        """Wait until a camera has been so, not counting its first ``after`` states."""

        def found() -> Status | None:
            mine = [status for one, status in self.states if one == name][after:]
            return next((s for s in mine if (s.state, s.code) == (state, code)), None)

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE_S), (name, state, code, self.states)
            status = found()
        assert status is not None
        return status


@contextmanager
def filming(
    *cameras: Camera, networks: CameraNetworks | None = None, **more: Any
) -> Iterator[Filming]:
    film = Filming(cameras, networks or CameraNetworks(), **more)
    film.cameras.start()
    try:
        yield film
    finally:
        film.cameras.stop()


def camera(name: str, url: str, **more: Any) -> Camera:
    return Camera(name=name, url=Secret(url), **more)


def eventually(check: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < until_s, what
        time.sleep(0.01)
