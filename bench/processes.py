"""Service processes for measurements: real ones, each started as a user's would be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

LOG_TAIL = 1000
EXCHANGE_WORKER = Path(__file__).parent / "exchange_worker.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, patience_s: float) -> None:
    """Wait until somebody listens."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until_s:
                raise SystemExit(f"nobody listens on port {port} after {patience_s:g} s") from None
            time.sleep(0.1)
        else:
            return


def descendants(pid: int) -> set[int]:
    """Processes that a process has started, and those that they have."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@contextmanager
def process(
    arguments: Sequence[str], log: Path, **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the body runs; what it prints goes to the log, whose end is shown when
    the body fails.
    """
    with log.open("wb") as out:
        child = subprocess.Popen(arguments, env={**os.environ, **environ}, stdout=out, stderr=out)
        try:
            yield child
        except BaseException:
            sys.stderr.write(f"{log.name} ends with:\n{log.read_text()[-LOG_TAIL:]}\n")
            raise
        finally:
            child.terminate()
            child.wait(30)


@contextmanager
def coordinator(folder: Path) -> Iterator[str]:
    """A coordinator that keeps its store in a folder; yields its address."""
    port = str(free_port())
    with process(
        (sys.executable, "-m", "fedfleet_coordinator"),
        folder / "coordinator.log",
        FEDFLEET_PORT=port,
        FEDFLEET_OPS_PORT="0",
        FEDFLEET_STORE=f"sqlite:{folder / 'store'}",
    ):
        yield f"127.0.0.1:{port}"


@contextmanager
def deployed(workers: int) -> Iterator[ControlServiceStub]:
    """A coordinator and worker processes on loopback; yields the coordinator's control stub."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(coordinator(folder))
        for i in range(workers):
            worker = process(
                (sys.executable, "-m", "fedfleet_worker"),
                folder / f"w{i}.log",
                FEDFLEET_COORDINATOR=address,
                FEDFLEET_WORKER_ID=f"worker-{i}",
                FEDFLEET_SHARD=str(i),
                FEDFLEET_STATE_DIR=str(folder / f"worker-{i}"),
                FEDFLEET_OPS_PORT="0",
                FEDFLEET_THREADS="1",
            )
            stack.enter_context(worker)
        channel = stack.enter_context(grpc.insecure_channel(address))
        yield ControlServiceStub(channel)


@contextmanager
def exchanging(
    folder: Path, workers: int, processes: int, *, together: bool = False
) -> Iterator[ControlServiceStub]:
    """A coordinator and workers that do not train.

    Args:
        folder: an empty one for all that they keep; the coordinator's is ``store`` in it.
        processes: over which the workers are spread evenly.
        together: nobody sends an update of a round before all workers have made theirs.
    """
    each = workers // processes
    with ExitStack() as stack:
        address = stack.enter_context(coordinator(folder))
        for first in range(0, workers, each):
            numbers = (str(first), str(each), str(folder), str(workers if together else 0))
            command = (sys.executable, str(EXCHANGE_WORKER), address, *numbers)
            stack.enter_context(process(command, folder / f"w{first}.log"))
        channel = stack.enter_context(grpc.insecure_channel(address))
        yield ControlServiceStub(channel)


def finish(control: ControlServiceStub, recipe: str) -> pb.GetRunResponse:
    """Submit a recipe and wait for the run's end."""
    request = pb.SubmitRunRequest(recipe=recipe)
    run = control.SubmitRun(request, timeout=60, wait_for_ready=True).run
    for _ in control.WatchRun(pb.WatchRunRequest(run_id=run.run_id), timeout=600):
        pass
    shown: pb.GetRunResponse = control.GetRun(pb.GetRunRequest(run_id=run.run_id), timeout=60)
    if shown.run.state != pb.RUN_STATE_COMPLETED:
        raise SystemExit(f"the run did not complete: {shown.run.code}: {shown.run.reason}")
    return shown
