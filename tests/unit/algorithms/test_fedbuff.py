from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SCHEMA, state, update

from fedfleet.aggregation.accumulator import Aggregate, UpdateAccumulator
from fedfleet.algorithms.base import Algorithm, RoundResult
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fedbuff import FedBuff, FedBuffOptions
from fedfleet.algorithms.plan import MAIN
from fedfleet.types import ModelState, Update

ONES = np.ones(9, np.float32)


def aggregate_of(algorithm: Algorithm, updates: list[Update], round: int) -> Aggregate:
    """What ``RoundSum`` hands to the step."""
    total = UpdateAccumulator(SCHEMA, policy="average", max_updates=len(updates), max_weight=1.0)
    for one in updates:
        total.check(one)
        weight = algorithm.weight(one.header) * algorithm.freshness(round - one.header.round)
        total.add(one, weight)
    return total.result()


def after(algorithm: Algorithm, base: ModelState, updates: list[Update], round: int) -> ModelState:
    headers = [one.header for one in updates]
    aggregates = {MAIN: aggregate_of(algorithm, updates, round)}
    return algorithm.step(RoundResult(base, aggregates, headers, {}, 0, round=round)).state


def test_step_divides_by_the_buffer_not_by_the_weights() -> None:
    """The example of the notes: K = 2, staleness 0 and 3: (1 d_1 + 0.5 d_2) / 2."""
    base = state(seed=1)
    fresh = update(trainable=4 * ONES, worker_id="a", round=4)
    stale = update(trainable=8 * ONES, worker_id="b", round=1)

    moved = after(FedBuff(FedBuffOptions()), base, [fresh, stale], 4)
    farther = after(FedBuff(FedBuffOptions(server_lr=0.5)), base, [fresh, stale], 4)

    np.testing.assert_array_equal(moved.trainable, base.trainable + 4 * ONES)
    np.testing.assert_array_equal(farther.trainable, base.trainable + 2 * ONES)


def test_buffer_of_stale_updates_is_a_smaller_step() -> None:
    base = state(seed=1)
    stale = [update(trainable=ONES, worker_id=name, round=1) for name in "ab"]

    moved = after(FedBuff(FedBuffOptions()), base, stale, 4)

    np.testing.assert_array_equal(moved.trainable, base.trainable + ONES / 2)


def test_statistics_move_as_far_as_the_buffer_is_fresh() -> None:
    base = replace(state(seed=1), statistics=np.zeros(6, np.float32))
    stale = [update(statistics=np.full(6, 2.0), worker_id=n, round=1) for n in "ab"]

    moved = after(FedBuff(FedBuffOptions()), base, stale, 4)

    np.testing.assert_array_equal(moved.statistics, np.ones(6, np.float32))


@given(st.integers(1, 6), st.integers(0, 1000))
def test_fresh_updates_make_fedavgs_uniform_mean_bit_for_bit(count: int, seed: int) -> None:
    base = state(seed=seed)
    updates = [
        update(
            trainable=state(seed=seed + 1 + i).trainable,
            statistics=state(seed=seed + 1 + i).statistics,
            counters=base.counters + i,
            worker_id=f"w{i}",
            weight=1.0 + i,
            round=7,
        )
        for i in range(count)
    ]

    states = [
        after(algorithm, base, updates, 7)
        for algorithm in (
            FedBuff(FedBuffOptions()),
            FedAvg(FedAvgOptions(weighting="uniform")),
        )
    ]

    for kind in ("trainable", "statistics", "counters"):
        assert getattr(states[0], kind).tobytes() == getattr(states[1], kind).tobytes()


def test_counters_of_stale_workers_do_not_go_back() -> None:
    base = replace(state(), counters=np.array([50], np.int64))

    moved = after(FedBuff(FedBuffOptions()), base, [update(counters=[30], round=1)], 3)

    assert moved.counters == [50]


def test_server_lr_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="server_lr = 0"):
        FedBuffOptions(server_lr=0.0)
