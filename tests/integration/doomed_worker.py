"""Real workers, each with many lives: one ends by SIGKILL at a chosen point, the next begins.

The worker itself knows nothing of it: its functions are wrapped from outside, in a process that is
forked for each life from this one, which has imported everything already. The argument is a JSON
object: workers' names -> their settings and lives. A life is a list of targets, each of which says
what happens when a point has been passed so many times: the process ends, and the next life begins
(once a file is there, if one is named); or its clock is set. The last life of a worker is the one
that is left when SIGTERM comes. Each beginning and each end is a line on stdout.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import grpc.aio._utils

from fedfleet.cli.launch import bind_to
from fedfleet.wire import chunks
from fedfleet_worker import __main__ as worker
from fedfleet_worker import disk, transfer
from fedfleet_worker.disk import Disk, Finished
from fedfleet_worker.stint import Stint

# Points, and after how many passes of each a life may end. A round passes all of them, but for
# those of a version, which it passes where the worker has to download it.
KEEPING = {
    "torn": 3,  # in the middle of a file of the update
    "unnamed": 1,  # all is written, and not yet renamed
    "named": 1,  # renamed, and not yet synced
    "kept": 1,
}
DELIVERING = {
    "uploading": 3,
    "receipt": 1,
    "installing": 1,  # before the memory is the run's
    "installed": 1,  # after that, before it is synced
    "dropping": 1,  # synced, the update is still there
    "dropped": 1,  # out of the way, its files are still there
    "sweeping": 1,  # one of its files is gone
}
TRAINING = {"training": 4}
VERSIONS = {"downloading": 2, "half_a_version": 1}
# Not a point of the work: so long after the life began, in milliseconds.
TIMED = {"time": 400}
CREDENTIALS = {"half_credentials": 1, "credentials_unnamed": 1, "credentials_named": 1}


class Doom:
    """Counts passes of points; what is due happens at once."""

    def __init__(self, targets: Sequence[Mapping[str, Any]], tell: Callable[[str], None]) -> None:
        self._targets = [dict(target) for target in targets]
        self._tell = tell
        self._lock = threading.Lock()
        self.offset_s = 0.0
        for target in self._targets:
            if target["point"] in TIMED:
                timer = threading.Timer(target["passes"] / 1000, self._carry_out, (target,))
                timer.daemon = True
                timer.start()

    def at(self, point: str) -> None:
        """Pass a point."""
        with self._lock:
            for target in self._targets:
                if target["point"] == point:
                    target["passes"] -= 1
                    if target["passes"] == 0:
                        self._carry_out(target)

    def is_next(self, point: str) -> bool:
        """Whether the next pass of a point ends the process."""
        return any((one["point"], one["passes"]) == (point, 1) for one in self._targets)

    def _carry_out(self, target: Mapping[str, Any]) -> None:
        if "clock_s" in target:
            self.offset_s = target["clock_s"]
            return
        self._tell(target["point"])
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(doom: Doom, owner: Any, name: str, *, before: str = "", after: str = "") -> None:
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            doom.at(before)
        result = original(*args, **kwargs)
        if after:
            doom.at(after)
        return result

    setattr(owner, name, wrapped)


def wrap_worker(doom: Doom) -> None:
    """Have the worker's functions pass their points."""
    wrap(doom, Disk, "keep", after="kept")
    wrap(doom, Finished, "read", after="uploading")
    wrap(doom, Disk, "delivered", before="receipt")
    wrap(doom, Disk, "drop", before="dropping")
    wrap(doom, Stint, "cancelled", before="training")
    wrap(doom, transfer, "check_chunk", before="downloading")
    wrap_files(doom)
    wrap_names(doom)
    wrap_clock(doom)


def wrap_files(doom: Doom) -> None:
    write, keep_version, rmtree = disk._write, Disk.keep_version, shutil.rmtree

    def torn(path: Path, data: bytes) -> None:
        if doom.is_next("torn"):
            path.write_bytes(data[: len(data) // 2])
        doom.at("torn")
        write(path, data)

    def half(self: Disk, digest: str, data: bytes) -> None:
        if doom.is_next("half_a_version"):
            keep_version(self, digest, data[: len(data) // 2])
        doom.at("half_a_version")
        keep_version(self, digest, data)

    def swept(path: Path, **more: Any) -> None:
        if doom.is_next("sweeping"):
            (path / "payload").unlink(missing_ok=True)
        doom.at("sweeping")
        rmtree(path, **more)

    disk._write, Disk.keep_version = torn, half  # type: ignore[method-assign]
    shutil.rmtree = swept  # type: ignore[assignment]


def wrap_names(doom: Doom) -> None:
    rename, replace = Path.rename, Path.replace

    def renamed(self: Path, target: Path) -> Path:
        is_kept = self.suffix == ".new"
        if is_kept:
            doom.at("unnamed")
        named = rename(self, target)
        doom.at("named" if is_kept else "dropped")
        return named

    def replaced(self: Path, target: Path) -> Path:
        is_memory, is_identity = self.name == "memory", target.name == "credentials.pem"
        if is_memory:
            doom.at("installing")
        if is_identity:
            if doom.is_next("half_credentials"):
                self.write_bytes(self.read_bytes()[:700])
            doom.at("half_credentials")
            doom.at("credentials_unnamed")
        named = replace(self, target)
        if is_memory:
            doom.at("installed")
        if is_identity:
            doom.at("credentials_named")
        return named

    Path.rename, Path.replace = renamed, replaced  # type: ignore[method-assign]


def wrap_clock(doom: Doom) -> None:
    """Have this process see another time of the day; what waits goes by another clock.

    But for grpc's: its core, which has the machine's clock, is given deadlines by it.
    """
    seconds, nanoseconds = time.time, time.time_ns
    grpc.aio._utils.time = types.SimpleNamespace(time=seconds)  # type: ignore[attr-defined]
    time.time = lambda: seconds() + doom.offset_s
    time.time_ns = lambda: nanoseconds() + int(doom.offset_s * 1e9)


class Lives:
    """One worker's."""

    def __init__(self, name: str, plan: Mapping[str, Any]) -> None:
        self._name = name
        self._plan = plan
        self._left = list(plan["lives"])
        self._until = ""
        self.pid = 0

    def begin(self) -> None:
        while self._until and not os.path.exists(self._until):  # noqa: PTH110 - Path is wrapped
            time.sleep(0.02)  # a file has no event to wait for
        targets = self._left.pop(0) if self._left else []
        self._until = next((one["until"] for one in targets if "until" in one), "")
        maker = os.getpid()
        self.pid = os.fork()
        if self.pid:
            tell(worker=self._name, pid=self.pid)
            return
        bind_to(maker)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(self._plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        os.environ.update(self._plan["settings"])
        # So that small updates have several.
        chunks.FIRST_BYTES, chunks.MOST_BYTES = 1 << 9, 1 << 10
        wrap_worker(Doom(targets, lambda point: tell(worker=self._name, died=point)))
        os._exit(worker.main([]))

    def end(self, status: int) -> bool:
        """A life has ended: whether another is to begin."""
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            return True
        tell(worker=self._name, exit=os.waitstatus_to_exitcode(status))
        return False


def tell(**fields: Any) -> None:
    os.write(1, (json.dumps(fields) + "\n").encode())


def main(plans: Mapping[str, Any]) -> None:
    """Begin life after life until SIGTERM, which each worker's last life gets too."""
    workers = [Lives(name, plan) for name, plan in plans.items()]
    stopping = False

    def stop(number: int, frame: types.FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for one in workers:
            if one.pid:
                os.kill(one.pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for one in workers:
        one.begin()
    while running := [one for one in workers if one.pid]:
        pid, status = os.wait()
        [one] = [one for one in running if one.pid == pid]
        one.pid = 0
        if one.end(status) and not stopping:
            one.begin()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
