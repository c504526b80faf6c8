"""The engine without another process, which serialises nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from fedfleet.sim.jobs import Job, Result, TrainJob
from fedfleet.sim.workplace import Workplace
from fedfleet.training.stacked import StackedTrainer


class InProcess:
    """The engine without another process: each job is done when its result is asked for.

    Args:
        stacked: trains jobs that follow each other as one batch, in place of one after the other.
    """

    def __init__(self, workplace: Workplace, stacked: StackedTrainer | None = None) -> None:
        self._workplace = workplace
        self._stacked = stacked

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        if self._stacked is None:
            return map(self._workplace.carry_out, jobs)
        return self._together(self._stacked, iter(jobs))

    def _together(self, stacked: StackedTrainer, jobs: Iterator[Job]) -> Iterator[Result]:
        while batch := list(islice(jobs, stacked.most)):
            training = [job for job in batch if isinstance(job, TrainJob)]
            done = iter(self._workplace.carry_out_together(training, stacked))
            for job in batch:
                is_done = isinstance(job, TrainJob)
                yield next(done) if is_done else self._workplace.carry_out(job)

    def close(self) -> None:
        """Nothing is held beyond this object."""
