"""The exact sum and the accumulator against rational arithmetic and float64 numpy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SCHEMA, update

from fedfleet.aggregation.accumulator import StatisticsPolicy, UpdateAccumulator
from fedfleet.aggregation.exact_sum import WEIGHT_STEP, ExactSum, SumBounds
from fedfleet.types import Kind, Update

MAX_ABS = 1024.0
weights = st.one_of(st.integers(1, 1 << 20).map(float), st.floats(1e-6, 1e6))


@given(
    st.lists(st.tuples(st.floats(-MAX_ABS, MAX_ABS, width=32), weights), min_size=1, max_size=10),
    st.booleans(),
)
def test_mean_is_within_the_stated_error_of_the_rational_mean(
    terms: list[tuple[float, float]], fine: bool
) -> None:
    total = ExactSum(1, SumBounds(total_weight=2.0**24, max_abs=MAX_ABS, fine=fine))
    for value, weight in terms:
        total.add(np.array([value], np.float32), weight)

    steps = [(Fraction(value), max(1, round(w / WEIGHT_STEP))) for value, w in terms]
    all_steps = sum(n for _, n in steps)
    exact = sum(v * n for v, n in steps) / all_steps
    magnitude = sum(abs(v) * n for v, n in steps) / all_steps
    mean_weight = Fraction(WEIGHT_STEP) * all_steps / len(terms)
    bound = Fraction(total.resolution) / (2 * mean_weight) + magnitude / 2**51
    assert abs(Fraction(float(total.mean()[0])) - exact) <= bound


@given(
    st.lists(st.tuples(st.integers(-(2**20), 2**20), st.integers(1, 1000)), min_size=1, max_size=10)
)
def test_sum_of_representable_terms_has_no_error_at_all(terms: list[tuple[int, int]]) -> None:
    total = ExactSum(1, SumBounds(total_weight=10_000.0, max_abs=MAX_ABS))
    for value, weight in terms:
        total.add(np.array([value / 2.0**10], np.float32), float(weight))

    exact = sum(Fraction(v, 2**10) * w for v, w in terms) / sum(w for _, w in terms)
    assert total.mean()[0] == float(exact)


def random_updates(count: int, seed: int) -> list[Update]:
    random = np.random.default_rng(seed)
    return [
        update(
            trainable=random.normal(scale=0.1, size=9),
            statistics=[*random.normal(scale=3, size=3), *random.uniform(0.1, 9, 3)],
            counters=[random.integers(0, 10_000)],
            worker_id=f"w{i}",
            weight=float(random.integers(1, 5000)),
        )
        for i in range(count)
    ]


def fold(updates: list[Update], policy: StatisticsPolicy) -> UpdateAccumulator:
    accumulator = UpdateAccumulator(
        SCHEMA, policy=policy, max_updates=len(updates), max_weight=1 << 20
    )
    for one in updates:
        accumulator.check(one)
        accumulator.add(one, one.header.weight)
    return accumulator


@pytest.mark.parametrize("seed", range(5))
def test_average_policy_equals_numpys_weighted_average(seed: int) -> None:
    updates = random_updates(7, seed)
    shares = [one.header.weight for one in updates]

    aggregate = fold(updates, "average").result()

    for kind, found in (
        (Kind.TRAINABLE, aggregate.means["trainable"]),
        (Kind.STATISTIC, aggregate.statistics),
    ):
        rows = np.array([one.section(kind.value).values for one in updates], np.float64)
        np.testing.assert_allclose(found, np.average(rows, axis=0, weights=shares), rtol=1e-6)
    assert aggregate.counters == max(one.section("counter").values[0] for one in updates)
    assert aggregate.updates == 7
    assert aggregate.total_weight == sum(shares)


@pytest.mark.parametrize("seed", range(5))
def test_pooled_policy_gives_mean_and_variance_of_the_union(seed: int) -> None:
    random = np.random.default_rng(seed)
    shards = [random.normal(i, 1 + i, (int(random.integers(2, 400)), 3)) for i in range(6)]
    updates = [
        update(
            statistics=[*shard.mean(0), *shard.var(0)], worker_id=f"w{i}", weight=float(len(shard))
        )
        for i, shard in enumerate(shards)
    ]

    statistics = fold(updates, "pooled").result().statistics

    union = np.concatenate(shards)
    np.testing.assert_allclose(statistics[:3], union.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics[3:], union.var(0), rtol=1e-5)


@pytest.mark.parametrize("policy", ["average", "pooled"])
@given(st.randoms(use_true_random=False))
def test_aggregate_is_bit_identical_in_every_order(
    policy: StatisticsPolicy, random: object
) -> None:
    updates = random_updates(6, seed=1)
    shuffled = list(updates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's Random

    one, other = fold(updates, policy).result(), fold(shuffled, policy).result()

    assert one.means["trainable"].tobytes() == other.means["trainable"].tobytes()
    assert one.statistics.tobytes() == other.statistics.tobytes()
    assert one.counters.tobytes() == other.counters.tobytes()
    assert one.total_weight == other.total_weight
