"""The process of a camera, as the service holds it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from fedfleet_inference_api.cameras.config import Camera
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.ring import Ring, make_ring
from fedfleet_inference_api.cameras.spec import LATER_S, MOST_LINE, Spec, Told, parse_told

MODULE = "fedfleet_inference_api.cameras.child"
_AT_ONCE = 65536
# The shortest of our words have a hundred bytes: a pipe holds no more of them.
MOST_WORDS = 1024


class WordsInvalid(Exception):
    """The process tells what no process of ours does."""


class CameraProcess:
    """Starts it. Used by the supervisor's thread; the ring may be read on any.

    The URL goes to standard input: arguments and environment of a process can be read by others.
    It is given no environment of ours: what decodes the bytes of a camera has no use for the
    secrets in it.

    Args:
        sequence: of the last frame that there was.

    Raises:
        OSError: the system has no room for another process.
    """

    def __init__(
        self, camera: Camera, networks: CameraNetworks, *, sequence: int, memory_mb: int
    ) -> None:
        fd = make_ring(camera.max_side)
        spec = Spec(
            url=_absolute(camera),
            fps=camera.fps,
            stall_s=camera.silence_s + LATER_S,
            max_side=camera.max_side,
            memory_mb=memory_mb,
            sequence=sequence,
            ring_fd=fd,
            parent=os.getpid(),
            networks=networks,
            ca_file=camera.ca_file.absolute() if camera.ca_file else None,
            loop=camera.loop,
        )
        self.ring = Ring(fd, camera.max_side)
        try:
            self._process = _start(camera.name, fd)
        except OSError:
            self.ring.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._heard = b""
        self._is_silent = False
        self._is_distrusted = False
        with contextlib.suppress(BrokenPipeError):  # it has died: seen where it is waited for
            self._stdin.write(spec.to_line())

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when the process tells something, or has ended; -1 when it has ended."""
        return -1 if self._is_silent else self._stdout.fileno()

    def words(self) -> list[Told]:
        """What it told since the last call.

        Raises:
            WordsInvalid: it is no process of ours any more, and must be ended.
        """
        # Asked before what is read: all that it told is there then. Its pipe says no end while
        # somebody else holds it, a copy of a process that a camera has taken over.
        has_exited = self._process.poll() is not None
        try:
            heard = os.read(self._stdout.fileno(), _AT_ONCE)
        except BlockingIOError:
            self._is_silent = has_exited
            return []
        self._is_silent = has_exited or not heard
        *lines, self._heard = (self._heard + heard).split(b"\n")
        if self._is_distrusted:
            self._heard = b""
            return []
        if len(self._heard) > MOST_LINE or len(lines) > MOST_WORDS:
            raise WordsInvalid
        try:
            return [parse_told(line) for line in lines]
        except (ValueError, RecursionError):
            raise WordsInvalid from None

    @property
    def has_ended(self) -> bool:
        """Whether it has exited, and told all that it will."""
        return self._is_silent and self._process.poll() is not None

    @property
    def exit_status(self) -> int | None:
        """Negative: the signal that ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def distrust(self) -> None:
        """Kill it, and believe no word more."""
        self._is_distrusted = True
        self._process.kill()

    def close(self, *, with_ring: bool) -> None:
        """Give up the pipes of a process that has ended; its ring may hold the last frame."""
        self._stdin.close()
        self._stdout.close()
        if with_ring:
            self.ring.close()


def _start(name: str, fd: int) -> subprocess.Popen[bytes]:
    places = (str(Path(place).absolute()) for place in sys.path if place)
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", MODULE, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what libraries print may hold the URL
        bufsize=0,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(places), "OPENBLAS_NUM_THREADS": "1"},
        pass_fds=(fd,),
        start_new_session=True,  # the service's terminal does not interrupt it: the service does
    )


def _absolute(camera: Camera) -> str:
    if camera.place.is_file:
        return f"file:{Path(camera.place.path.reveal()).absolute()}"
    return camera.url.reveal()
