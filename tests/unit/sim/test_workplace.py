"""A workplace knows what it holds, and lets go of what was drawn longest ago."""

from __future__ import annotations

import pytest

from fedfleet.data.catalog import Split
from fedfleet.data.shard import Shards
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.jobs import Evaluated, EvaluateJob, Failed
from fedfleet.sim.workplace import Workplace
from fedfleet.training.state import initial_state
from fedfleet.training.trainers import Trainers

RECIPE = parse_recipe("""
name = "workplace"
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
[evaluation]
workers = "cohort"
workers_on = "test"
""")
SHARDS = Shards(RECIPE.data, seed=RECIPE.seed, data_dir=None)
BASE = initial_state(card_of(RECIPE), 1)


def size(split: Split, shard: int) -> int:
    examples = SHARDS.load(split, shard)
    return examples.images.nbytes + examples.labels.nbytes


def workplace(kept_bytes: int) -> Workplace:
    trainers = Trainers(card_of(RECIPE), RECIPE.training, RECIPE.evaluation)
    return Workplace(RECIPE, trainers, SHARDS, data_dir=None, kept_bytes=kept_bytes)


def job(shard: int, probe_seed: int | None = 1) -> EvaluateJob:
    """On the worker's training split, or its test split where there is no seed."""
    return EvaluateJob(
        assignment_id=f"of-{shard}",
        worker_id=f"worker-{shard}",
        base=BASE,
        memory={},
        probe_seed=probe_seed,
    )


def test_held_bytes_counts_each_split_once_however_often_it_is_used() -> None:
    held = workplace(1 << 30)

    for _ in range(2):
        for shard in (0, 1):
            assert isinstance(held.carry_out(job(shard)), Evaluated)
        assert isinstance(held.carry_out(job(0, probe_seed=None)), Evaluated)

    assert held.held_bytes == size("train", 0) + size("train", 1) + size("test", 0)


def test_worker_that_was_drawn_longest_ago_is_let_go_first() -> None:
    held = workplace(size("train", 0) + size("train", 1) + size("train", 2) - 1)

    for shard in (0, 1, 0, 2):  # the last makes 1 go
        held.carry_out(job(shard))

    assert held.held_bytes == size("train", 0) + size("train", 2)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_worker_without_a_shard_holds_nothing(kept_bytes: int) -> None:
    held = workplace(kept_bytes)

    assert isinstance(held.carry_out(job(99)), Failed)

    assert held.held_bytes == 0
