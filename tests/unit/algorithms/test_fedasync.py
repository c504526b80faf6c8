from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from samples import SCHEMA, state, update

from fedfleet.aggregation.accumulator import UpdateAccumulator
from fedfleet.algorithms.base import Received, RoundResult
from fedfleet.algorithms.fedasync import FedAsync, FedAsyncOptions
from fedfleet.algorithms.plan import MAIN
from fedfleet.types import ModelState, Update

ONES = np.ones(9, np.float32)


def after(
    options: FedAsyncOptions,
    base: ModelState,
    updates: list[Update],
    *,
    round: int,
    start_of: Callable[[int], ModelState],
) -> ModelState:
    algorithm = FedAsync(options)
    total = UpdateAccumulator(SCHEMA, policy="average", max_updates=len(updates), max_weight=1.0)
    for one in updates:
        total.add(one, algorithm.freshness(round - one.header.round))
    headers = [one.header for one in updates]
    result = RoundResult(
        base, {MAIN: total.result()}, headers, {}, 0, round=round, start_of=start_of
    )
    return algorithm.step(result).state


def at(value: float) -> ModelState:
    return replace(state(), trainable=value * ONES, statistics=np.full(6, value, np.float32))


def test_fresh_model_is_mixed_in_with_alpha() -> None:
    """x = 2, y = 2 + 10 = 12, alpha = .5: 7; nobody is asked for an earlier version."""
    sent = update(trainable=10 * ONES, statistics=np.full(6, 4.0, np.float32), round=3)

    mixed = after(FedAsyncOptions(mixing=0.5), at(2.0), [sent], round=3, start_of={}.__getitem__)

    np.testing.assert_array_equal(mixed.trainable, 7 * ONES)
    np.testing.assert_array_equal(mixed.statistics, np.full(6, 3.0, np.float32))


def test_stale_model_draws_the_run_back_to_where_it_began() -> None:
    """x = 2, x_1 = 6, y = 6 + 2 = 8, alpha = .5 / (1 + 3)^.5 = .25: .75 * 2 + .25 * 8 = 3.5."""
    sent = update(trainable=2 * ONES, statistics=np.full(6, 10.0, np.float32), round=1)

    mixed = after(
        FedAsyncOptions(mixing=0.5), at(2.0), [sent], round=4, start_of={1: at(6.0)}.__getitem__
    )

    np.testing.assert_array_equal(mixed.trainable, 3.5 * ONES)
    np.testing.assert_array_equal(mixed.statistics, np.full(6, 4.0, np.float32))


def test_several_models_are_mixed_in_by_their_mean_step() -> None:
    """Of the two above, with x = 2: (10 + .5 * (8 - 2)) / 2 * .5 = 3.25 on top."""
    updates = [
        update(trainable=10 * ONES, worker_id="a", round=4),
        update(trainable=2 * ONES, worker_id="b", round=1),
    ]

    mixed = after(
        FedAsyncOptions(mixing=0.5), at(2.0), updates, round=4, start_of={1: at(6.0)}.__getitem__
    )

    np.testing.assert_array_equal(mixed.trainable, 5.25 * ONES)


def test_whole_fresh_model_replaces_the_version() -> None:
    sent = update(trainable=ONES, round=2)

    mixed = after(FedAsyncOptions(mixing=1.0), at(2.0), [sent], round=2, start_of={}.__getitem__)

    np.testing.assert_array_equal(mixed.trainable, 3 * ONES)


def test_counters_of_stale_workers_do_not_go_back() -> None:
    base = replace(at(0.0), counters=np.array([50], np.int64))

    mixed = after(
        FedAsyncOptions(), base, [update(counters=[30], round=1)], round=2, start_of=lambda _: base
    )

    assert mixed.counters == [50]


def test_workers_are_held_near_the_version_only_with_mu() -> None:
    received = Received(state(), {}, {})

    assert FedAsync(FedAsyncOptions()).adjuster(received) is None
    assert FedAsync(FedAsyncOptions(mu=0.1)).adjuster(received) is not None


@pytest.mark.parametrize(("name", "value"), [("mixing", 0.0), ("mixing", 1.5), ("mu", -1.0)])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        FedAsyncOptions(**{name: value})
