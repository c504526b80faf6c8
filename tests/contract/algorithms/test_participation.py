"""Weights that make up for unequal chances: what a round leads to, over every possible draw."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from samples import BASE_DIGEST, SCHEMA, state, update

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.rounds.systematic import TICKS, comb, corrections, inclusion
from fedfleet.types import Array, Update

BASE = state(seed=9)
# The last one is drawn as rarely as anybody can be.
PROPENSITIES = {"a": 8.0, "b": 3.0, "c": 1.0, "d": 0.5, "e": 0.0}
SAMPLES = {"a": 10.0, "b": 400.0, "c": 35.0, "d": 80.0, "e": 5.0}


def updates() -> dict[str, Update]:
    chance = np.random.default_rng(3)
    return {
        name: update(
            worker_id=name,
            weight=samples,
            trainable=chance.normal(size=9).astype(np.float32),
            statistics=chance.uniform(1, 2, size=6).astype(np.float32),
        )
        for name, samples in SAMPLES.items()
    }


def step_of(
    algorithm: str, weighting: str, drawn: tuple[str, ...], factors: dict[str, float]
) -> tuple[Array, Array]:
    """The step that a round takes, in float64, and the statistics that it comes to."""
    recipe = parse_recipe(
        f"""
        name = "m"
        model = {{architecture = "mlp"}}
        data = {{dataset = "digits"}}
        rounds = {{rounds = 1, cohort = 4, max_weight = 1000, selection = "weighted"}}
        algorithm = {{name = "{algorithm}", weighting = "{weighting}"}}
        """
    )
    built = make_algorithm(recipe.algorithm)
    total = RoundSum(recipe, built, BASE, built.start(SCHEMA))
    sent = updates()
    for name in drawn:
        total.check(sent[name], BASE_DIGEST)
        total.fold(sent[name], correction=factors.get(name, 1.0))
    following = total.outcome([sent[name].header for name in drawn], 1).state
    step: Array = following.trainable.astype(np.float64) - BASE.trainable
    return step, following.statistics


def every_draw(size: int) -> Iterator[tuple[float, tuple[str, ...], dict[str, float]]]:
    """Each stretch of the comb's starts: how likely it is, whom it draws, their corrections."""
    ticks = inclusion(PROPENSITIES, size)
    ends = np.cumsum([0, *ticks.values()], dtype=object) % TICKS
    for start, stop in pairwise([*sorted({*ends, 0}), TICKS]):
        drawn = comb(ticks, list(ticks), start)
        yield (stop - start) / TICKS, drawn, corrections(ticks, drawn)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedavgm"])
def test_expected_step_is_the_mean_over_all_workers(algorithm: str, size: int) -> None:
    corrected, plain = np.zeros(9), np.zeros(9)
    for chance, drawn, factors in every_draw(size):
        corrected += chance * step_of(algorithm, "participation", drawn, factors)[0]
        plain += chance * step_of(algorithm, "uniform", drawn, factors)[0]

    first = 1.9 if algorithm == "fedavgm" else 1.0  # Nesterov's first step, from rest
    mean = first * np.mean([one.sections[0].values for one in updates().values()], axis=0)
    # The state is float32; a correction of 1000 lets the smallest chance show.
    np.testing.assert_allclose(corrected, mean, rtol=0, atol=2e-6)
    assert np.abs(plain - mean).max() > 0.2


def test_step_of_all_workers_is_the_mean_by_samples_or_alike() -> None:
    everyone = tuple(SAMPLES)[:4]
    sent = updates()
    deltas = np.array([sent[name].sections[0].values for name in everyone])
    weights = np.array([SAMPLES[name] for name in everyone])

    alike, _ = step_of("fedavg", "participation", everyone, {})
    by_samples, _ = step_of("fedavg", "participation-samples", everyone, {})

    np.testing.assert_allclose(alike, deltas.mean(0), atol=1e-6)
    np.testing.assert_allclose(by_samples, weights @ deltas / weights.sum(), atol=1e-6)


def test_step_by_samples_weighs_each_by_its_samples_and_its_correction() -> None:
    sent = updates()
    factors = {"b": 0.25, "e": 900.0}

    step, statistics = step_of("fedavg", "participation-samples", ("b", "e"), factors)

    weights = {name: SAMPLES[name] * factors[name] for name in factors}
    total = sum(weights.values())
    for got, place in ((step, 0), (statistics, 1)):
        want = sum(weights[name] * sent[name].sections[place].values for name in weights) / total
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_statistics_are_a_mean_whatever_the_corrections_add_up_to() -> None:
    sent = updates()

    _, statistics = step_of("fedavg", "participation", ("a", "e"), {"a": 0.3, "e": 600.0})

    values = [sent[name].sections[1].values for name in ("a", "e")]
    want = (0.3 * values[0] + 600.0 * values[1]) / 600.3
    np.testing.assert_allclose(statistics, want, rtol=1e-5)


def test_weightings_without_participation_know_no_corrections() -> None:
    for weighting in ("samples", "uniform"):
        plain = step_of("fedavg", weighting, ("a", "b"), {})
        corrected = step_of("fedavg", weighting, ("a", "b"), {"a": 3.0, "b": 0.1})
        np.testing.assert_array_equal(plain[0], corrected[0])
