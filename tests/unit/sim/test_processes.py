"""What the engine of several processes leaves in the shared folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

import numpy as np
import pytest

from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.jobs import TrainJob
from fedfleet.sim.processes import Processes
from fedfleet.training.state import initial_state

RECIPE = parse_recipe("""
name = "processes"
seed = 5
[model]
architecture = "mlp"
hidden = [4]
[data]
dataset = "digits"
partition = "iid"
workers = 6
[training]
lr = 0.05
[algorithm]
name = "fedavg"
[rounds]
rounds = 1
cohort = 3
""")


class Helped(Processes):
    """With a process that tries to take each job as soon as it was settled."""

    @property
    def files(self) -> list[str]:
        return [path.name for path in self._folder.iterdir()]

    def _settle(self, number: int) -> str:
        assignment_id = super()._settle(number)
        with suppress(FileNotFoundError):
            (self._folder / f"job-{number}").rename(self._folder / f"taken-{number}.1")
        return assignment_id


def jobs_until_one_fails() -> Iterator[TrainJob]:
    base = initial_state(card_of(RECIPE), 1)
    for number in range(3):
        yield TrainJob(
            assignment_id=f"of-{number}",
            worker_id=f"worker-{number}",
            round=1,
            seed=number,
            base=base,
            base_digest="sim",
            broadcast=(),
            memory={"own": np.ones(3)},
        )
    raise InterruptedError("no more jobs")


def test_withdrawn_jobs_can_be_taken_by_nobody_and_leave_nothing() -> None:
    # No process of its own: what one would do comes at the worst moment instead.
    with closing(Helped(RECIPE, 0, data_dir=None)) as engine:
        with pytest.raises(InterruptedError):
            next(engine.carry_out(jobs_until_one_fails()))

        assert engine.files == []
