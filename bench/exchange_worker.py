"""Real workers that do all of their work but the training, for measurements of the exchange.

Each worker is the service itself (stream, transfers, disk, encoding); only the optimizer's steps
are left out: what they would have made of the received weights is one multiplication. Arguments:
coordinator address, number of the first worker, how many, state folder, and how many workers end
a round's training together (0: each when it can).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedfleet.algorithms.base import LocalWork
from fedfleet.obs.logs import setup_logging
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.local import LocalTrainer, TrainResult
from fedfleet.training.worker import LocalRun, LocalWorker
from fedfleet.types import Kind, ModelState, Section
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.service import serve
from fedfleet_worker.training import Bench

# One example, one step, one of everything else that training must report. Any: field by field.
WORK: dict[str, Any] = {
    item.name: 1
    for item in fields(LocalWork)
    if item.default is MISSING and item.default_factory is MISSING
}


class UntrainedWorker(LocalWorker):
    """Returns an update of full size that differs from worker to worker and round to round.

    Equal updates would be one blob, of which the coordinator takes the bytes only once.

    Args:
        folder: shared by all workers of the run.
        together: how many of them end a round's training together; 0 lets each go when it can.
    """

    def __init__(self, run: LocalRun, trainer: LocalTrainer, folder: Path, together: int) -> None:
        super().__init__(run, trainer)
        self._name = run.worker_id
        self._factor = np.float32(1 - 1e-4 * (1 + (run.shard or 0)))
        self._folder = folder
        self._together = together

    # Any: of what else an assignment says, nothing matters here.
    def train(
        self,
        received: ModelState,
        *,
        round: int,
        cancelled: Callable[[], bool] | None = None,
        **_: Any,
    ) -> TrainResult:
        trained = received.trainable * self._factor
        sections = (
            Section(Kind.TRAINABLE.value, Kind.TRAINABLE, trained - received.trainable),
            Section(Kind.STATISTIC.value, Kind.STATISTIC, received.statistics),
            Section(Kind.COUNTER.value, Kind.COUNTER, received.counters),
        )
        if self._together:
            self._await_others(round, cancelled)
        return TrainResult(sections, {}, LocalWork(**WORK))

    def _await_others(self, round: int, cancelled: Callable[[], bool] | None) -> None:
        meeting = self._folder / f"round-{round}"
        meeting.mkdir(exist_ok=True)
        (meeting / self._name).touch()
        while len(list(meeting.iterdir())) < self._together:
            if cancelled is not None and cancelled():
                return
            time.sleep(0.01)


class UntrainedBench(Bench):
    """The worker's bench, with training taken out and nothing else."""

    def __init__(self, config: WorkerConfig, folder: Path, together: int) -> None:
        super().__init__(config)
        self._meeting = (folder, together)

    def _set_up(self, assignment: pb.Assignment) -> None:
        super()._set_up(assignment)
        if not isinstance(self._worker, UntrainedWorker):
            run = self._local_run(parse_recipe(assignment.recipe))
            self._worker = UntrainedWorker(run, self._trainer, *self._meeting)


async def main(coordinator: str, first: int, count: int, state: Path, together: int) -> None:
    """Serve until SIGTERM; every worker has a thread of its own, as in a process of its own."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with ExitStack() as threads:
        await asyncio.gather(
            *(
                serve(
                    WorkerConfig(
                        coordinator=coordinator,
                        worker_id=f"worker-{shard}",
                        shard=shard,
                        state_dir=state / f"worker-{shard}",
                        ops_port=0,
                    ),
                    stop,
                    threads.enter_context(ThreadPoolExecutor(1)),
                    lambda config: UntrainedBench(config, state, together),
                )
                for shard in range(first, first + count)
            )
        )


if __name__ == "__main__":
    address, first, count, state, together = sys.argv[1:]
    setup_logging("worker", "warning")
    torch.set_num_threads(1)
    asyncio.run(main(address, int(first), int(count), Path(state), int(together)))
