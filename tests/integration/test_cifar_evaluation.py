"""20 IID workers of which 2 train per round: everybody evaluates the same, trained, weights.

A published system of this kind reported 11 % because its coordinator evaluated a model into which
it had never loaded the aggregate; here both sides must come to the same counts.
"""

from __future__ import annotations

import functools
import operator
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from harness import ROOT, fleet, initial_of, running_coordinator, state_of_version

from fedfleet.data.catalog import describe
from fedfleet.data.shard import load_examples
from fedfleet.models.card import ModelCard
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.local import LocalTrainer
from fedfleet.wire.evaluations import evaluation_from_message

DATA = Path(os.environ.get("FEDFLEET_TEST_DATA", ROOT.parent / "shared" / "data"))
WORKERS = 20
RECIPE = f"""
name = "cifar10"
seed = 1
[model]
architecture = "mobilenet_v3_small"
stem = "cifar"
[data]
dataset = "cifar10"
partition = "iid"
workers = {WORKERS}
[training]
batch_size = 20
optimizer = "adamw"
lr = 0.003
batchnorm_momentum = 0.3
threads = 1
[rounds]
rounds = 2
cohort = 2
min_workers = {WORKERS}
[evaluation]
workers = "all"
workers_on = "test"
"""


def small_copy(folder: Path) -> Path:
    """The first rows of the real set, in its own layout: rows are shuffled, so it is fair."""
    (folder / "cifar10").mkdir(parents=True)
    for split, rows in (("train", 10_000), ("test", 400)):
        name = f"{split}-00000-of-00001.parquet"
        table = pq.read_table(DATA / "cifar10" / name).slice(0, rows)
        pq.write_table(table, folder / "cifar10" / name)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not (DATA / "cifar10").is_dir(), reason=f"no CIFAR-10 in {DATA}")
async def test_coordinator_and_workers_evaluate_the_same_trained_weights(tmp_path: Path) -> None:
    data_dir = small_copy(tmp_path / "data")
    async with running_coordinator(tmp_path / "state", data_dir=data_dir) as running:
        run_id = await running.submit(RECIPE)
        with fleet(running.address, WORKERS, tmp_path, data_dir):
            run = await running.finished(run_id)
        assert run.reason == ""
        shown = await running.show(run_id)
        state = state_of_version(running.store, "cifar10")

    recipe = parse_recipe(RECIPE)
    spec = describe(recipe.data)
    card = ModelCard(model=recipe.model, inputs=spec.inputs, classes=spec.classes)
    trainer = LocalTrainer(card, recipe.training, recipe.evaluation)
    test = load_examples(recipe.data, "test", seed=1, shard=None, data_dir=data_dir)
    untrained = trainer.evaluate(initial_of(RECIPE), test)
    by_hand = trainer.evaluate(state, test)
    for summary in shown.rounds:
        by_workers = functools.reduce(
            operator.add,
            [evaluation_from_message(e) for e in summary.worker_evaluations.values()],
        )
        by_coordinator = evaluation_from_message(summary.evaluation)
        assert len(summary.worker_evaluations) == WORKERS
        assert summary.updates == 2
        assert by_workers.class_samples == by_coordinator.class_samples
        # Another batch composition can turn a near tie: at most one answer in 400.
        assert abs(by_workers.correct - by_coordinator.correct) <= 1
        assert by_workers.loss == pytest.approx(by_coordinator.loss, rel=1e-4)
    assert by_hand.correct == pytest.approx(by_coordinator.correct, abs=1)
    assert by_hand.loss == pytest.approx(by_coordinator.loss, rel=1e-4)
    assert by_coordinator.loss < untrained.loss - 0.02
