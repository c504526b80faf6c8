from __future__ import annotations

from typing import Any

import pytest

from fedfleet.algorithms.catalog import AlgorithmConfig
from fedfleet.algorithms.fedavg import FedAvgOptions
from fedfleet.data.config import DataConfig, DigitsOptions
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer
from fedfleet.training.state import initial_state
from fedfleet.training.trainers import Trainers
from fedfleet.training.worker import LocalRun, LocalWorker
from fedfleet.types import ModelState

RECIPE = """
name = "m"
[model]
architecture = "mlp"
hidden = []
[data]
dataset = "digits"
[rounds]
rounds = 1
cohort = 1
"""
CARD = card_of(parse_recipe(RECIPE))


NORMED = """
name = "m"
[model]
architecture = "cnn"
width = 0.3
hidden = 8
norm = "batch"
[data]
dataset = "digits"
[rounds]
rounds = 1
cohort = 1
[algorithm]
name = "heterofl"
[levels]
rates = [1.0, 0.5, 0.3]
"""


def worker(**training: Any) -> LocalWorker:
    config = TrainingConfig(**{"threads": 1, "validation_fraction": 0.25, **training})
    run = LocalRun(
        worker_id="worker-2",
        seed=3,
        rounds=4,
        data=DataConfig(dataset="digits", options=DigitsOptions(), partition="iid", workers=20),
        training=config,
        evaluation=EvaluationConfig(),
        algorithm=AlgorithmConfig(name="fedavg", options=FedAvgOptions()),
        shard=2,
        data_dir=None,
    )
    return LocalWorker(run, LocalTrainer(CARD, config, run.evaluation))


def version() -> ModelState:
    return initial_state(CARD, 5)


def test_slices_are_measured_as_workers_of_their_width_measure_them() -> None:
    recipe = parse_recipe(NORMED)
    config = TrainingConfig(threads=1)
    trainers = Trainers(card_of(recipe), config, recipe.evaluation, recipe.levels)
    assert trainers.models is not None
    one, taken = worker(), []
    whole = initial_state(card_of(recipe), 5)

    def take(level: str) -> None:
        taken.append(level)
        one.use(trainers.at(level), is_narrow=True)

    found = one.measured_slices(whole, ["b", "c"], trainers.models, take)

    assert taken == [*found] == ["b", "c"]
    other = worker()
    for level, statistics in found.items():
        part = trainers.models.slice(level).cut(whole)
        other.use(trainers.at(level), is_narrow=True)
        measured, samples = other.measured(part)
        assert samples > 0
        assert statistics.tobytes() == measured.statistics.tobytes()
        assert statistics.tobytes() != part.statistics.tobytes()


def test_probe_is_the_loss_on_the_examples_that_are_trained_on() -> None:
    one = worker(batch_size=8)
    held, trained = one.evaluate(version(), {}), one.probe(version(), {}, seed=1, sample=False)

    result = one.train(version(), seed=1, round=1, broadcast=(), memory={})

    assert trained.samples == result.work.samples
    assert held.samples + trained.samples == 72  # a twentieth of the training split
    # In the first step of a training that has one step, the loss is measured before it.
    whole = worker(batch_size=0)
    first = whole.train(version(), seed=1, round=1, broadcast=(), memory={})
    assert first.work.metrics["train_loss"] == pytest.approx(trained.loss, rel=1e-5)


def test_probe_of_a_sample_is_over_one_batch_that_the_seed_draws() -> None:
    one = worker(batch_size=8)

    losses = [one.probe(version(), {}, seed=seed, sample=True) for seed in (1, 1, 2)]

    assert [found.samples for found in losses] == [8, 8, 8]
    assert losses[0] == losses[1] != losses[2]


def test_probe_of_a_sample_takes_all_where_a_batch_does() -> None:
    one = worker(batch_size=0)

    assert one.probe(version(), {}, seed=1, sample=True) == one.probe(
        version(), {}, seed=2, sample=False
    )
