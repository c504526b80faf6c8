"""What the running statistics of levels do and cost: models with batch normalisation, by width.

``level_statistics``: digits, a small ``cnn``, five workers of which two train the whole width and
two a quarter, eight simulated rounds, three seeds; the share of the test images that each level of
the last version finds, with the statistics that the fleet measured of it and with those of the
whole width. Target: 10 points more at level c, in the mean; seeds differ by more than that.

``level_statistics_*``: images of 32x32, the usual rates: what the statistics add to a version's
file (target: at most 2 %), and processor seconds on one core in which a worker answers a query of
410 images, the whole width alone and with all levels (no target; a worker holds one model at a
time, and builds each anew).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from record import record

from fedfleet.data.shard import Examples, load_examples
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.rounds.static_norm import queried_levels
from fedfleet.sim.driver import simulate
from fedfleet.training.state import initial_state
from fedfleet.training.submodels import SubModels
from fedfleet.training.trainers import Trainers
from fedfleet.types import FloatVector, ModelState
from fedfleet.wire.weights import encode_state

Found = dict[str, FloatVector]

SEEDS = (4, 5, 6)
TARGET_POINTS = 0.1
TARGET_BYTES = 0.02
IMAGES = 410
DIGITS = """
name = "level-statistics"
seed = {seed}
[model]
architecture = "cnn"
width = 0.75
hidden = 32
norm = "batch"
[data]
dataset = "digits"
partition = "iid"
workers = 5
[training]
lr = 0.02
momentum = 0.9
batch_size = 32
epochs = 2
threads = 1
[algorithm]
name = "heterofl"
[levels]
rates = [1.0, 0.5, 0.25]
shares = [0.4, 0.2, 0.4]
[rounds]
rounds = 8
cohort = 5
"""
LARGE = """
name = "level-statistics"
[model]
architecture = "{architecture}"
[data]
dataset = "cifar10"
partition = "iid"
workers = 1
[training]
threads = 1
[algorithm]
name = "heterofl"
[levels]
[rounds]
rounds = 1
cohort = 1
"""


def accuracies(seed: int) -> dict[str, tuple[float, float]]:
    """By level, with its own statistics and with those of the whole width."""
    recipe = parse_recipe(DIGITS.format(seed=seed))
    made = simulate(recipe)
    test = load_examples(recipe.data, "test", seed=seed, shard=None, data_dir=None)
    trainers = _trainers(recipe)
    found: dict[str, tuple[float, float]] = {}
    for level in "abc":
        part = _models(trainers).slice(level).cut(made.state)
        own = replace(part, statistics=made.levels.get(level, part.statistics))
        evaluate = trainers.at(level).evaluate
        found[level] = evaluate(own, test).accuracy, evaluate(part, test).accuracy
    return found


def cost(architecture: str) -> None:
    """Print what one network's statistics take."""
    recipe = parse_recipe(LARGE.format(architecture=architecture))
    trainers, state = _trainers(recipe), initial_state(card_of(recipe), 1)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (IMAGES, 3, 32, 32), np.uint8)
    examples = Examples(images, np.arange(IMAGES) % 10)
    levels = queried_levels(recipe, trainers.schema)

    def measure(names: tuple[str, ...]) -> Found:
        return {name: _measured(trainers, state, name, examples) for name in names}

    whole_s, _ = _seconds(lambda: measure(("a",)))
    all_s, found = _seconds(lambda: measure(("a", *levels)))
    plain = len(encode_state(state))
    more = len(encode_state(state, {level: found[level] for level in levels})) - plain
    record(
        f"level_statistics_{architecture}",
        more <= TARGET_BYTES * plain,
        target=TARGET_BYTES,
        file_bytes=plain,
        statistics_bytes=more,
        share=more / plain,
        query_whole_s=whole_s,
        query_levels_s=all_s,
        ratio=all_s / whole_s,
    )


def _measured(trainers: Trainers, state: ModelState, level: str, examples: Examples) -> FloatVector:
    part = _models(trainers).slice(level).cut(state)
    return trainers.at(level).measured(part, examples).statistics


def _trainers(recipe: Recipe) -> Trainers:
    """One model at a time, as a worker holds them."""
    return Trainers(card_of(recipe), recipe.training, recipe.evaluation, recipe.levels, kept=1)


def _models(trainers: Trainers) -> SubModels:
    assert trainers.models is not None, "the recipes have levels"
    return trainers.models


def _seconds(work: Callable[[], Found]) -> tuple[float, Found]:
    """The least of three times, and what came of it."""
    times = []
    for _ in range(3):
        start_s = time.process_time()
        found = work()
        times.append(time.process_time() - start_s)
    return min(times), found


def main() -> None:
    torch.set_num_threads(1)
    found = [accuracies(seed) for seed in SEEDS]
    means = {
        level: [float(np.mean([one[level][which] for one in found])) for which in (0, 1)]
        for level in "abc"
    }
    record(
        "level_statistics",
        means["c"][0] - means["c"][1] >= TARGET_POINTS,
        target=TARGET_POINTS,
        seeds=len(SEEDS),
        own={level: own for level, (own, _) in means.items()},
        whole_width={level: whole for level, (_, whole) in means.items()},
        level_c_by_seed={seed: one["c"] for seed, one in zip(SEEDS, found, strict=True)},
    )
    for architecture in ("resnet18", "mobilenet_v3_small"):
        cost(architecture)


if __name__ == "__main__":
    main()
