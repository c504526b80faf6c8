"""A real coordinator and real workers, each a process; the worker perhaps behind a link."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from harness import PATIENCE_S, free_port, process
from links.emulated import Link

from fedfleet.rpc.channel import open_channel
from fedfleet.store.open import open_store
from fedfleet.types import ModelState
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet.wire.weights import decode_state

# What a run over a bad link may take on a busy machine.
RUN_S = 110.0
POLL_S = 0.05
INSIDE = """import os, sys
os.execvp("ip", ["ip", "netns", "exec", sys.argv[1], sys.executable, *sys.argv[2:]])
"""

RECIPE = """
name = "linked"
seed = {seed}
[model]
architecture = "mlp"
hidden = {hidden}
[data]
dataset = "synthetic"
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = 1
cohort = 1
attempts = 1
deadline_s = 600
{more}
[evaluation]
coordinator = false
"""


def recipe_of(hidden: list[int], *, seed: int = 7, workers: int = 1, more: str = "") -> str:
    """One round of one worker, whose update has the size of the model."""
    return RECIPE.format(seed=seed, hidden=hidden, workers=workers, more=more)


class Remote:
    """A coordinator in another process."""

    def __init__(self, folder: Path, host: str, port: int, channel: grpc.aio.Channel) -> None:
        self.port = port
        self.address = f"{host}:{port}"
        self._folder = folder
        self._control: Any = ControlServiceStub(channel)

    async def submit(self, recipe: str) -> str:
        request = pb.SubmitRunRequest(recipe=recipe)
        return str((await self._control.SubmitRun(request, timeout=PATIENCE_S)).run.run_id)

    async def finished(self, run_id: str) -> pb.Run:
        """The run once it is over."""
        watch = self._control.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=RUN_S)
        async for _ in watch:
            pass
        request = pb.GetRunRequest(run_id=run_id)
        run: pb.Run = (await self._control.GetRun(request, timeout=PATIENCE_S)).run
        return run

    async def connected(self) -> set[str]:
        workers = await self._control.ListWorkers(pb.ListWorkersRequest(), timeout=PATIENCE_S)
        return {worker.worker_id for worker in workers.workers if worker.connected}

    def events(self) -> list[str]:
        """Names of what the coordinator logged."""
        return [line["event"] for line in log_of(self._folder / "coordinator.log")]


@asynccontextmanager
async def coordinator_process(
    folder: Path, host: str = "127.0.0.1", **environ: str
) -> AsyncIterator[Remote]:
    """A coordinator that keeps its store and its log in ``folder``."""
    port = free_port()
    settings = {
        "FEDFLEET_HOST": host,
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_STORE": f"sqlite:{folder / 'store'}",
        "FEDFLEET_TLS": "off",
        "FEDFLEET_INSECURE": "1",
        **environ,
    }
    with process(folder / "coordinator.log", "-m", "fedfleet_coordinator", **settings):
        async with open_channel(f"{host}:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), PATIENCE_S)
            yield Remote(folder, host, port, channel)


@contextmanager
def worker_process(
    folder: Path, address: str, name: str, shard: int = 0, link: Link | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that logs to ``NAME.log``; behind a link when there is one."""
    settings = {
        "FEDFLEET_COORDINATOR": address,
        "FEDFLEET_WORKER_ID": name,
        "FEDFLEET_SHARD": str(shard),
        "FEDFLEET_STATE_DIR": str(folder / name),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_TLS": "off",
        "FEDFLEET_INSECURE": "1",
        "FEDFLEET_THREADS": "1",
    }
    inside = ("-c", INSIDE, link.namespace) if link else ()
    with process(folder / f"{name}.log", *inside, "-m", "fedfleet_worker", **settings) as child:
        yield child


async def until(condition: Callable[[], bool]) -> None:
    """Return once something holds; other processes and the link have no event to wait for."""

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    await asyncio.wait_for(poll(), PATIENCE_S)


def log_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(folder: Path, name: str, event: str) -> list[dict[str, Any]]:
    """What a process logged under one name."""
    return [line for line in log_of(folder / f"{name}.log") if line["event"] == event]


def result_of(folder: Path) -> ModelState:
    """The version that the run made."""
    with open_store(f"sqlite:{folder / 'store'}") as store:
        [version] = store.registry.versions("linked")
        return decode_state(version.schema, store.blobs.read(version.digest))


def journal_of(folder: Path, run_id: str, kind: str) -> list[dict[str, Any]]:
    """The fields of a run's journal entries of one kind."""
    with open_store(f"sqlite:{folder / 'store'}") as store:
        return [e.fields for e in store.journal.entries(run_id) if e.kind == kind]
