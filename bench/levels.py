"""Accuracy of a fleet with mixed levels against fleets of one level: CIFAR-10, simulated, 3 seeds.

Twenty workers with like shares of the first images train a small convolutional network with group
normalisation; all take part in each round. Fleets: everyone at the whole width (a), everyone at a
sixteenth of it (e), and four workers at each of a, b, c, d, e. Of the mixed fleet's last model
every level is evaluated on the test split, as the device at that level would use it.

Targets: the mixed fleet's model is at least 5 points better than the smallest fleet's, and at most
4 worse than that of the fleet at a. Needs the data set: FEDFLEET_DATA_DIR names a folder with
`cifar10/` (default: ../shared/data beside the checkout). Minutes per run; one process per core.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from record import record
from simulating import data_dir

from fedfleet.data.shard import Shards
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.training.trainers import Trainers
from fedfleet.types import ModelState

SEEDS = (1, 2, 3)
TARGET_ABOVE_SMALLEST = 5.0
TARGET_BELOW_WHOLE = 4.0
# The levels of a fleet's workers, of each as many.
FLEETS = {"a": "a", "mixed": "abcde", "e": "e"}
WIDTH = 0.5
SMALLEST = 1 / 16
# HeteroFL, CIFAR-10, IID: 100 workers, 400 rounds of 5 epochs, ResNet-18 (Flower's reproduction).
PUBLISHED = {"a": 90.83, "mixed": 87.46, "e": 76.53}
RECIPE = """
name = "levels"
seed = {seed}
[model]
architecture = "cnn"
width = {width}
norm = "group"
groups = 8
[data]
dataset = "cifar10"
samples = 10000
partition = "iid"
workers = 20
[training]
epochs = 1
batch_size = 10
lr = 0.01
momentum = 0.9
scheduler = "cosine"
clip_norm = 5.0
validation_fraction = 0.0
threads = 1
[algorithm]
name = "heterofl"
[levels]
rates = {rates}
shares = {shares}
[rounds]
rounds = {rounds}
cohort = 20
[evaluation]
every = 5
"""
LEVELS = "abcde"
ROUNDS = 20


def recipe(fleet: str, seed: int, rounds: int = ROUNDS) -> Recipe:
    """The run of a fleet. Where all are at e, that is the run's model, as in HeteroFL: nobody has
    a wider one, so nothing is scaled.
    """
    held = FLEETS[fleet]
    width, rates = WIDTH, [1.0, 0.5, 0.25, 0.125, SMALLEST]
    if held == "e":
        width, rates, held = WIDTH * SMALLEST, [1.0], "a"
    shares = [1 / len(held) if level in held else 0.0 for level in LEVELS[: len(rates)]]
    text = RECIPE.format(seed=seed, width=width, rates=rates, shares=shares, rounds=rounds)
    return parse_recipe(text)


def run_one(fleet: str, seed: int) -> dict[str, Any]:
    """Simulate one run; accuracies in points."""
    parsed = recipe(fleet, seed)
    start, cpu = time.perf_counter(), time.process_time()
    simulation = simulate(parsed, data_dir())
    assert simulation.outcome == "completed", simulation.reason
    found = by_level(parsed, simulation.state, LEVELS if fleet == "mixed" else "a")
    return {
        "accuracy": found["a"],  # the run's whole model
        "by_level": found,
        "by_round": [points(r.evaluation.accuracy) for r in simulation.rounds if r.evaluation],
        "bytes_up": sum(r.bytes_up for r in simulation.rounds),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }


def by_level(parsed: Recipe, state: ModelState, levels: str) -> dict[str, float]:
    """How a whole model's slices do on the test split."""
    test = Shards(parsed.data, seed=parsed.seed, data_dir=data_dir()).load("test", None)
    card = card_of(parsed)
    trainers = Trainers(card, parsed.training, parsed.evaluation, parsed.levels)
    assert trainers.models is not None
    found = {}
    for level in levels:
        part = trainers.models.slice(level).cut(state)
        found[level] = points(trainers.at(level).evaluate(part, test).accuracy)
    return found


def points(accuracy: float) -> float:
    return round(100 * accuracy, 2)


def in_a_process(job: tuple[str, int]) -> dict[str, Any]:
    """A process of its own: torch's threads and settings belong to one."""
    command = [sys.executable, __file__, *map(str, job)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def main() -> None:
    if not (data_dir() / "cifar10").exists():
        record("levels", None, reason=f"no cifar10 folder in {data_dir()}")
        return
    jobs = [(fleet, seed) for seed in SEEDS for fleet in FLEETS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = dict(zip(jobs, pool.map(in_a_process, jobs), strict=True))
    mean = {
        fleet: statistics.mean(runs[fleet, seed]["accuracy"] for seed in SEEDS) for fleet in FLEETS
    }
    above, below = mean["mixed"] - mean["e"], mean["a"] - mean["mixed"]
    record(
        "levels",
        above >= TARGET_ABOVE_SMALLEST and below <= TARGET_BELOW_WHOLE,
        accuracy={fleet: round(value, 2) for fleet, value in mean.items()},
        mixed_above_smallest=round(above, 2),
        target_above_smallest=TARGET_ABOVE_SMALLEST,
        mixed_below_whole=round(below, 2),
        target_below_whole=TARGET_BELOW_WHOLE,
        mixed_by_level={
            level: round(
                statistics.mean(runs["mixed", seed]["by_level"][level] for seed in SEEDS), 2
            )
            for level in LEVELS
        },
        published=PUBLISHED,
        runs={fleet: [runs[fleet, seed] for seed in SEEDS] for fleet in FLEETS},
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(run_one(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
