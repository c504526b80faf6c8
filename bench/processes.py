"""Service processes for measurements: real ones, each started as a user's would be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(module: str, log: Path, **environ: str) -> Iterator[None]:
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, "FEDFLEET_OPS_PORT": "0", **environ},
            stderr=out,
        )
        try:
            yield
        finally:
            child.terminate()
            child.wait(30)


@contextmanager
def deployed(workers: int) -> Iterator[ControlServiceStub]:
    """A coordinator and worker processes on loopback; yields the coordinator's control stub."""
    port = str(free_port())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = f"sqlite:{folder / 'store'}"
        coordinator = _process(
            "fedfleet_coordinator", folder / "c.log", FEDFLEET_PORT=port, FEDFLEET_STORE=store
        )
        stack.enter_context(coordinator)
        for i in range(workers):
            worker = _process(
                "fedfleet_worker",
                folder / f"w{i}.log",
                FEDFLEET_COORDINATOR=f"127.0.0.1:{port}",
                FEDFLEET_WORKER_ID=f"worker-{i}",
                FEDFLEET_SHARD=str(i),
                FEDFLEET_STATE_DIR=str(folder / f"worker-{i}"),
                FEDFLEET_THREADS="1",
            )
            stack.enter_context(worker)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
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
