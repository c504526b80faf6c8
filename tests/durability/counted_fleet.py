"""Many real workers in one process that write down what they were asked for and what they did.

A line for each assignment to train that is pushed, each training that finished and each receipt.
They dial again sooner than workers do in the field, where a coordinator dies less often than once a
second. Arguments: coordinator addresses, number of workers, state folder, the file for the lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fedfleet_worker.service as service
from fedfleet.algorithms.base import Memory
from fedfleet.obs.logs import setup_logging
from fedfleet.rpc.retry import backoff_s
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.updates import EncodedUpdate
from fedfleet_worker.agent import Agent
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk, Finished
from fedfleet_worker.training import Bench
from fedfleet_worker.workbench import Workbench


class Ledger:
    """Appends lines to a file, each in one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what: str, assignment_id: str) -> None:
        line = json.dumps({"what": what, "id": assignment_id, "at_s": time.time()})
        os.write(self._file, (line + "\n").encode())


class CountedBench(Bench):
    def __init__(self, config: WorkerConfig, ledger: Ledger) -> None:
        super().__init__(config)
        self._ledger = ledger

    def train(self, assignment: pb.Assignment, *args: Any) -> tuple[EncodedUpdate, Memory]:
        made = super().train(assignment, *args)
        self._ledger.note("trained", assignment.assignment_id)
        return made


class CountedDisk(Disk):
    def __init__(self, folder: Path, ledger: Ledger) -> None:
        super().__init__(folder)
        self._ledger = ledger

    def delivered(self, update: Finished) -> None:
        self._ledger.note("receipt", update.assignment_id)
        super().delivered(update)


class CountedWorkbench(Workbench):
    def __init__(self, ledger: Ledger, *args: Any, **more: Any) -> None:
        super().__init__(*args, backoff=impatient, **more)
        self._ledger = ledger

    def offer(self, assignment: pb.Assignment) -> None:
        if assignment.kind == pb.ASSIGNMENT_KIND_TRAIN:
            self._ledger.note("asked", assignment.assignment_id)
        super().offer(assignment)


def impatient() -> Iterator[float]:
    return backoff_s(0.05, 0.3)


async def main(coordinator: str, count: int, state: Path, lines: Path) -> None:
    """Serve until SIGTERM."""
    ledger = Ledger(lines)
    swapped: dict[str, Any] = {
        "Agent": partial(Agent, backoff=impatient),
        "Disk": partial(CountedDisk, ledger=ledger),
        "Workbench": partial(CountedWorkbench, ledger),
    }
    for name, counted in swapped.items():
        assert hasattr(service, name)
        setattr(service, name, counted)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    configs = [
        WorkerConfig(
            coordinator=coordinator,
            worker_id=f"worker-{i}",
            shard=i,
            state_dir=state / f"worker-{i}",
            ops_port=0,
            grace_s=1.0,
            threads=1,
        )
        for i in range(count)
    ]

    def bench(config: WorkerConfig) -> Bench:
        return CountedBench(config, ledger)

    with ThreadPoolExecutor(1) as threads:
        await asyncio.gather(*(service.serve(one, stop, threads, bench) for one in configs))


if __name__ == "__main__":
    address, count, state, lines = sys.argv[1:]
    setup_logging("worker", "info")
    torch.set_num_threads(1)
    asyncio.run(main(address, int(count), Path(state), Path(lines)))
