"""Lives of one coordinator: each is killed at its point, the next begins at once.

Every life is a process of its own that runs ``fedfleet_coordinator.__main__``. They are forked
from this one, which has imported everything and started nothing: so a life begins in milliseconds
and thirty of them fit into a run. A JSON line on stdout tells of each life's begin and end; the
last one has no point and ends by SIGTERM, which is passed on. Arguments: the targets as JSON, the
file for what the coordinator prints. Its settings are this process's FEDFLEET_ variables.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from durability.doom import Doom, wrap_coordinator, wrap_redis, wrap_sqlite
from durability.points import STOP, TIME, Target

from fedfleet_coordinator.__main__ import main

# What a life may take to come to its point on a busy machine; beyond, it is stuck.
STUCK_S = 60.0
RESTART_S = 0.1
PR_SET_PDEATHSIG = 1


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def live(target: Target | None, log: Path, pipe: int) -> None:
    """Be a coordinator; never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if target is not None:
        doom = Doom(target, lambda line: void(os.write(pipe, line.encode() + b"\n")))
        wrap_coordinator(doom)
        wrap_sqlite(doom)
        wrap_redis(doom)
    os._exit(main([]))


def void(_: object) -> None:
    """Nothing comes of it."""


def begin(target: Target | None, log: Path) -> tuple[int, int]:
    """A new life: its process and the pipe that it tells its end on."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        live(target, log, writing)
    os.close(writing)
    return child, reading


def until_dead(child: int, pipe: int, target: Target) -> str:
    """Wait for a life's end, or bring it about when its time has come; returns where it was."""
    timed = target.point in (TIME, STOP)
    ends_s = time.monotonic() + (target.delay_s if timed else STUCK_S)
    where = target.point if timed else "stuck"
    while select.select([pipe], [], [], max(0.0, ends_s - time.monotonic()))[0]:
        line = os.read(pipe, 4096).decode().strip().rpartition("\n")[2]
        if not line or line.startswith("at "):
            where = line.removeprefix("at ") or "exit"
            break
        where, ends_s = target.point, time.monotonic() + float(line.removeprefix("in "))
    if where == STOP:
        return stop_well(child, pipe)
    os.kill(child, signal.SIGKILL)
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return where if died else f"exit {status}"


def stop_well(child: int, pipe: int) -> str:
    """End a life by SIGTERM; on its way out it may still come to where it dies."""
    os.kill(child, signal.SIGTERM)
    if not select.select([pipe], [], [], STUCK_S)[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "stuck"
    line = os.read(pipe, 4096).decode().strip()
    os.close(pipe)
    _, status = os.waitpid(child, 0)
    if line:
        return line.removeprefix("at ")
    # Before its handlers are there the signal just ends it.
    well = status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM)
    return STOP if well else f"exit {status}"


def run(targets: list[Target], log: Path) -> int:
    """Live through all lives; returns the last one's status."""
    for number, target in enumerate(targets):
        where = ""
        while not where or where.startswith("exit"):
            child, pipe = begin(target, log)
            if not where:
                tell(life=number, pid=child)
            where = until_dead(child, pipe, target)
            if where.startswith("exit"):
                time.sleep(RESTART_S)  # its store is away
            tell(life=number, died=where, target=asdict(target), last=where == "stuck")
            if where == "stuck":
                return 1
    return end_well(len(targets), log)


def end_well(number: int, log: Path) -> int:
    """Live without a target, until SIGTERM; returns the status."""
    stopped, status = False, 1
    child = 0

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        os.kill(child, signal.SIGTERM)

    told = False
    while status and not stopped:
        child, pipe = begin(None, log)
        signal.signal(signal.SIGTERM, stop)
        if not told:
            told = True
            tell(life=number, pid=child, last=True)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(pipe)
        if status and not stopped:
            tell(life=number, died=f"exit {status}", last=True)
            time.sleep(RESTART_S)
    return status


if __name__ == "__main__":
    sys.exit(run([Target(**fields) for fields in json.loads(sys.argv[1])], Path(sys.argv[2])))
