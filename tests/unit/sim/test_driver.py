"""The driver asks an engine for no more than the round wants, and for it in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from fedfleet.data.shard import Shards
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.inprocess import InProcess
from fedfleet.sim.jobs import EvaluateJob, Job, Result, TrainJob
from fedfleet.sim.workplace import Workplace
from fedfleet.training.trainers import Trainers

RECIPE = """
name = "driver"
seed = 2
[model]
architecture = "mlp"
hidden = [8]
[data]
dataset = "digits"
partition = "iid"
workers = 8
[training]
threads = 1
{training}
[rounds]
rounds = 3
cohort = 3
over_select = 4
[evaluation]
workers = "cohort"
"""


def recipe(training: str = "") -> Recipe:
    return parse_recipe(RECIPE.format(training=training))


class Watched:
    """The engine of this process, and what was asked of it."""

    def __init__(self, recipe: Recipe, kept_bytes: int = 1 << 20) -> None:
        trainers = Trainers(card_of(recipe), recipe.training, recipe.evaluation)
        shards = Shards(recipe.data, seed=recipe.seed, data_dir=None)
        self.workplace = Workplace(recipe, trainers, shards, data_dir=None, kept_bytes=kept_bytes)
        self._engine = InProcess(self.workplace)
        self.done: list[Job] = []

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        return self._engine.carry_out(map(self._note, jobs))

    def _note(self, job: Job) -> Job:
        self.done.append(job)
        return job

    def close(self) -> None:
        self._engine.close()


def test_over_selected_work_that_nobody_wants_is_not_done() -> None:
    engine = Watched(recipe())

    found = simulate(recipe(), engine=engine)

    trained = [job.worker_id for job in engine.done if isinstance(job, TrainJob)]
    assert trained == [worker for one in found.rounds for worker in one.workers]
    evaluated = [job.worker_id for job in engine.done if isinstance(job, EvaluateJob)]
    assert evaluated == trained


def test_jobs_of_a_round_share_their_base() -> None:
    engine = Watched(recipe())

    simulate(recipe(), engine=engine)

    for number in (1, 2, 3):
        bases = {
            id(job.base) for job in engine.done if isinstance(job, TrainJob) and job.round == number
        }
        assert len(bases) == 1


def test_worker_that_fails_is_replaced_by_an_over_selected_one() -> None:
    failing = recipe('optimizer = "sgd"\nlr = 1e30')

    found = simulate(failing)

    assert (found.outcome, found.code) == ("failed", "QUORUM_NOT_MET")
    assert "TRAINING_FAILED" in found.reason


@pytest.mark.parametrize("kept_bytes", [0, 20_000, 1 << 30])
def test_examples_that_are_not_kept_change_nothing(kept_bytes: int) -> None:
    engine = Watched(recipe(), kept_bytes)

    found = simulate(recipe(), engine=engine)

    assert found.rounds == simulate(recipe()).rounds
    assert engine.workplace.held_bytes <= kept_bytes
