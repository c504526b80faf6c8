from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import SCHEMA, header, sections, state, update

from fedfleet.aggregation.accumulator import Aggregate, UpdateAccumulator
from fedfleet.algorithms.base import LocalWork, Received, RoundResult, Trained
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.plan import MAIN
from fedfleet.types import Kind, ModelState, ParamSpec, Schema, Section, Update

WORK = LocalWork(samples=7, steps=3, lr_sum=0.3, reach=0.3)


def trained_to(received: ModelState, trained: ModelState) -> Trained:
    return Trained(received, trained, WORK, lambda: np.zeros_like(received.trainable))


def after(algorithm: FedAvg, base: ModelState, aggregate: Aggregate) -> ModelState:
    """The state that a round leads to."""
    return algorithm.step(RoundResult(base, {MAIN: aggregate}, (), {}, 0)).state


def finish(algorithm: FedAvg, received: ModelState, trained: ModelState, weight: float) -> Update:
    made = algorithm.finish(Received(received, {}, {}), trained_to(received, trained))
    return Update(header(received.schema, weight=weight), made.sections)


def aggregate_of(algorithm: FedAvg, updates: list[Update]) -> Aggregate:
    schema = SCHEMA if not updates else _schema_of(updates)
    total = UpdateAccumulator(schema, policy="average", max_updates=len(updates), max_weight=1000)
    for one in updates:
        total.check(one)
        total.add(one, algorithm.weight(one.header))
    return total.result()


def _schema_of(updates: list[Update]) -> Schema:
    return next(s for s in (SCHEMA, SCALAR) if s.digest == updates[0].header.schema_digest)


SCALAR = Schema((ParamSpec("x", (1,), Kind.TRAINABLE),))


def scalar(value: float) -> ModelState:
    none = np.zeros(0, np.float32)
    return ModelState(SCALAR, np.array([value], np.float32), none, np.zeros(0, np.int64))


def test_finish_sends_the_delta_and_statistics_and_counters_as_values() -> None:
    received, trained = state(seed=1), state(seed=2)

    finished = FedAvg(FedAvgOptions()).finish(
        Received(received, {}, {"kept": ZERO}), trained_to(received, trained)
    )
    made, memory = finished.sections, finished.memory

    assert [(s.name, s.kind) for s in made] == [(kind.value, kind) for kind in Kind]
    np.testing.assert_array_equal(made[0].values, trained.trainable - received.trainable)
    np.testing.assert_array_equal(made[1].values, trained.statistics)
    np.testing.assert_array_equal(made[2].values, trained.counters)
    assert [s.values.dtype for s in made] == [kind.dtype for kind in Kind]
    assert memory == {"kept": ZERO}


ZERO = np.zeros(1)


def test_step_equals_the_papers_weighted_average_of_models() -> None:
    algorithm = FedAvg(FedAvgOptions())
    base = scalar(1.0)
    # Models 2, 4, 8 of 10, 20, 70 samples: (20 + 80 + 560) / 100.
    updates = [finish(algorithm, base, scalar(y), n) for y, n in ((2, 10), (4, 20), (8, 70))]

    following = after(algorithm, base, aggregate_of(algorithm, updates))

    np.testing.assert_allclose(following.trainable, [6.6], rtol=1e-7)


def test_step_with_uniform_weighting_is_the_plain_mean() -> None:
    algorithm = FedAvg(FedAvgOptions(weighting="uniform"))
    base = scalar(1.0)
    updates = [finish(algorithm, base, scalar(y), n) for y, n in ((2, 1), (4, 999))]

    following = after(algorithm, base, aggregate_of(algorithm, updates))

    np.testing.assert_array_equal(following.trainable, [3.0])


def test_step_moves_by_server_lr() -> None:
    algorithm = FedAvg(FedAvgOptions(server_lr=0.5))
    base = scalar(1.0)

    following = after(
        algorithm, base, aggregate_of(algorithm, [finish(algorithm, base, scalar(3.0), 5)])
    )

    np.testing.assert_array_equal(following.trainable, [2.0])


@pytest.mark.parametrize("server_lr", [1.0, 0.25])
def test_statistics_and_counters_are_never_scaled_by_server_lr(server_lr: float) -> None:
    algorithm = FedAvg(FedAvgOptions(server_lr=server_lr))
    base = state(seed=1)
    updates = [
        finish(algorithm, base, state(seed=2), weight=1),
        finish(algorithm, base, state(seed=3), weight=3),
    ]

    following = after(algorithm, base, aggregate_of(algorithm, updates))

    both = [one.section("statistic").values.astype(np.float64) for one in updates]
    np.testing.assert_allclose(following.statistics, (both[0] + 3 * both[1]) / 4, rtol=1e-6)
    largest = np.maximum(*(one.section("counter").values for one in updates))
    np.testing.assert_array_equal(following.counters, largest)
    assert following.counters.dtype == np.int64


def test_integer_counters_are_never_averaged() -> None:
    algorithm = FedAvg(FedAvgOptions())
    updates = [update(counters=[10]), update(counters=[13], worker_id="w2")]

    following = after(algorithm, state(), aggregate_of(algorithm, updates))

    np.testing.assert_array_equal(following.counters, [13])


@given(st.lists(st.integers(1, 999), min_size=2, max_size=5))
def test_one_round_with_equal_models_is_a_fixed_point(weights: list[int]) -> None:
    algorithm = FedAvg(FedAvgOptions())
    base = state(seed=4)
    updates = [finish(algorithm, base, base, w) for w in weights]

    following = after(algorithm, base, aggregate_of(algorithm, updates))

    np.testing.assert_array_equal(following.trainable, base.trainable)
    np.testing.assert_allclose(following.statistics, base.statistics, rtol=1e-6)
    np.testing.assert_array_equal(following.counters, base.counters)


def test_quadratics_reach_the_closed_form_fixed_point() -> None:
    """Two quadratics, full participation: sum w_i b_i / sum w_i with w_i = 1 - (1 - lr a_i)^K."""
    current = np.array([5.0])
    for _ in range(400):
        total = UpdateAccumulator(SCALAR, policy="average", max_updates=2, max_weight=1)
        for curvature, optimum in ((1.0, 0.0), (10.0, 1.0)):
            y = current.copy()
            for _ in range(10):
                y -= 0.02 * curvature * (y - optimum)
            # float64, which the sum takes too: the wire's float32 would hide the ninth digit.
            delta = Section(Kind.TRAINABLE.value, Kind.TRAINABLE, y - current)
            total.add(replace(update(SCALAR), sections=(delta, *sections(SCALAR)[1:])), 1.0)
        current = current + total.result().means["trainable"]

    assert current[0] == pytest.approx(0.8299226618, abs=1e-9)


@pytest.mark.parametrize(("weighting", "expected"), [("samples", 42.0), ("uniform", 1.0)])
def test_weight_is_the_samples_or_one(
    weighting: Literal["samples", "uniform"], expected: float
) -> None:
    assert FedAvg(FedAvgOptions(weighting=weighting)).weight(header(weight=42.0)) == expected


def test_fedavg_broadcasts_nothing_and_remembers_nothing() -> None:
    algorithm = FedAvg(FedAvgOptions())

    assert algorithm.start(SCHEMA) == {}
    assert algorithm.broadcast(SCHEMA, {}) == ()
    assert algorithm.adjuster(Received(state(), {}, {})) is None


@pytest.mark.parametrize("server_lr", [0.0, -1.0, float("nan"), float("inf")])
def test_options_refuse_a_server_lr_that_is_not_above_zero(server_lr: float) -> None:
    with pytest.raises(ValueError, match=r"server_lr = .*: must be above 0"):
        FedAvgOptions(server_lr=server_lr)
