from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from quadratics import SCALAR, Fleet, pair, wide
from samples import SCHEMA, state

from fedfleet.aggregation.accumulator import Aggregate
from fedfleet.algorithms.base import Algorithm, Memory, Outcome, RoundResult
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fedopt import (
    FedAdagrad,
    FedAdagradOptions,
    FedAdam,
    FedAvgM,
    FedAvgMOptions,
    FedOptOptions,
    FedYogi,
)
from fedfleet.algorithms.plan import MAIN
from fedfleet.types import Array, Kind

ADAM = FedOptOptions(server_lr=0.1, tau=1e-3)
ADAGRAD = FedAdagradOptions(server_lr=0.1, tau=1e-3)


def aggregate(delta: float) -> Aggregate:
    none = np.zeros(0, np.float32)
    return Aggregate({"trainable": np.array([delta])}, none, np.zeros(0, np.int64), 1, 1.0)


def follow(algorithm: Algorithm, deltas: list[float], memory: Memory | None = None) -> Outcome:
    """The rounds that these mean deltas make, from x = 0."""
    outcome = Outcome(wide(0.0), algorithm.start(SCALAR) if memory is None else memory)
    for delta in deltas:
        outcome = algorithm.step(
            RoundResult(outcome.state, {MAIN: aggregate(delta)}, (), outcome.memory, 1)
        )
    return outcome


def reached(algorithm: Algorithm, deltas: list[float], memory: Memory | None = None) -> float:
    return float(follow(algorithm, deltas, memory).state.trainable[0])


def memory(m: float, v: float) -> Memory:
    return {"fedopt.m": np.array([m]), "fedopt.v": np.array([v])}


# algorithms.md 2.3: delta 1, lr .1, tau 1e-3, from v = 0 (Adam, Adagrad) and tau^2 (Yogi).
@pytest.mark.parametrize(
    ("algorithm", "second", "expected"),
    [
        (FedAdam(ADAM), 0.0, 0.0990099),
        (FedAdagrad(ADAGRAD), 0.0, 0.0999001),
        (FedYogi(ADAM), 1e-6, 0.0990050),
    ],
)
def test_fedopt_first_step_is_the_papers(
    algorithm: Algorithm, second: float, expected: float
) -> None:
    assert reached(algorithm, [1.0], memory(0.0, second)) == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize("algorithm", [FedAdam(ADAM), FedAdagrad(ADAGRAD), FedYogi(ADAM)])
def test_fedopt_squares_start_at_tau_squared(algorithm: Algorithm) -> None:
    assert algorithm.start(SCALAR)["fedopt.v"].tolist() == [1e-6]
    assert algorithm.start(SCALAR)["fedopt.m"].tolist() == [0.0]


def test_fedopt_corrects_no_bias() -> None:
    """With m and v small at first, a corrected step would be ten times as long."""
    small_m = FedAdam(FedOptOptions(server_lr=0.1, tau=1e-3, beta1=0.9, beta2=0.0))

    assert reached(small_m, [1.0]) == pytest.approx(0.1 * 0.1 / (1 + 1e-3), rel=1e-12)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (FedAdam(ADAM), 0.99 * 1.0 + 0.01 * 0.25),
        (FedAdagrad(ADAGRAD), 1.25),
        (FedYogi(ADAM), 1.0 - 0.01 * 0.25),
    ],
)
def test_fedopt_squares_follow_each_rule(algorithm: Algorithm, expected: float) -> None:
    kept = follow(algorithm, [0.5], memory(0.0, 1.0)).memory

    assert kept["fedopt.v"][0] == pytest.approx(expected, rel=1e-15)


def test_fedadam_second_step_uses_both_memories() -> None:
    m = 0.9 * 0.1 + 0.1 * 2.0
    v = 0.99 * (0.99 * 1e-6 + 0.01) + 0.01 * 4.0
    first = 0.1 * 0.1 / (np.sqrt(0.99 * 1e-6 + 0.01) + 1e-3)

    assert reached(FedAdam(ADAM), [1.0, 2.0]) == pytest.approx(
        first + 0.1 * m / (np.sqrt(v) + 1e-3), rel=1e-12
    )


@pytest.mark.parametrize(("nesterov", "after"), [(False, (1.0, 3.5)), (True, (1.5, 4.75))])
def test_fedavgm_takes_the_two_steps_that_are_computed_by_hand(
    nesterov: bool, after: tuple[float, float]
) -> None:
    algorithm = FedAvgM(FedAvgMOptions(beta=0.5, nesterov=nesterov))

    assert (reached(algorithm, [1.0]), reached(algorithm, [1.0, 2.0])) == after
    assert follow(algorithm, [1.0, 2.0]).memory["fedavgm.v"].tolist() == [2.5]


def test_fedavgm_scales_the_step_and_not_the_velocity_by_server_lr() -> None:
    algorithm = FedAvgM(FedAvgMOptions(beta=0.5, nesterov=False, server_lr=0.1))

    assert reached(algorithm, [1.0, 2.0]) == pytest.approx(0.35, rel=1e-15)
    assert follow(algorithm, [1.0, 2.0]).memory["fedavgm.v"].tolist() == [2.5]


@pytest.mark.parametrize("nesterov", [False, True])
def test_fedavgm_without_momentum_is_fedavg_bit_for_bit(nesterov: bool) -> None:
    plain, momentum = (
        FedAvg(FedAvgOptions()),
        FedAvgM(FedAvgMOptions(beta=0.0, nesterov=nesterov)),
    )
    one = Outcome(state(seed=1))
    other = Outcome(state(seed=1), momentum.start(SCHEMA))
    for seed in range(4):
        one = plain.step(RoundResult(one.state, {MAIN: of_schema(seed)}, (), one.memory, 1))
        other = momentum.step(
            RoundResult(other.state, {MAIN: of_schema(seed)}, (), other.memory, 1)
        )
        assert one.state.trainable.tobytes() == other.state.trainable.tobytes()


def of_schema(seed: int) -> Aggregate:
    random = np.random.default_rng(seed)
    means: Mapping[str, Array] = {
        "trainable": random.normal(size=SCHEMA.elements(Kind.TRAINABLE)) * 0.1
    }
    statistics = random.uniform(1, 2, SCHEMA.elements(Kind.STATISTIC)).astype(np.float32)
    return Aggregate(means, statistics, np.array([7], np.int64), 3, 30.0)


@pytest.mark.parametrize(
    "algorithm",
    [FedAdam(ADAM), FedYogi(ADAM), FedAdagrad(ADAGRAD), FedAvgM(FedAvgMOptions(server_lr=0.5))],
)
def test_fedopt_lets_statistics_and_counters_pass_by_the_step(algorithm: Algorithm) -> None:
    given = of_schema(1)
    memory = algorithm.start(SCHEMA)

    outcome = algorithm.step(RoundResult(state(), {MAIN: given}, (), memory, 1))

    np.testing.assert_array_equal(outcome.state.statistics, given.statistics)
    np.testing.assert_array_equal(outcome.state.counters, [7])
    sizes = {array.size for array in outcome.memory.values()}
    assert sizes == {SCHEMA.elements(Kind.TRAINABLE)}


def test_fedavgm_keeps_the_fixed_point_of_fedavg() -> None:
    """Momentum changes the way, not where the mean delta is zero."""
    fleet = Fleet(FedAvgM(FedAvgMOptions(beta=0.5)), pair(), 5.0).rounds(100)

    assert fleet.x == pytest.approx(0.8299226618, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau = 0.0: must be above 0"),
        ({"beta1": 1.0}, "beta1 = 1.0: must be at least 0 and below 1"),
        ({"beta2": -0.1}, "beta2 = -0.1: must be at least 0 and below 1"),
        ({"server_lr": 0.0}, "server_lr = 0.0: must be above 0"),
        ({"tau": float("nan")}, "tau = nan: must be above 0"),
    ],
)
def test_fedopt_options_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FedOptOptions(**options)  # type: ignore[arg-type]  # a table of the fields


def test_fedadagrad_refuses_a_memory_of_squares() -> None:
    with pytest.raises(ValueError, match="beta2: fedadagrad sums all squares"):
        FedAdagradOptions(beta2=0.9)


def test_fedavgm_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"beta = 1.0: must be at least 0 and below 1"):
        FedAvgMOptions(beta=1.0)
    with pytest.raises(ValueError, match=r"server_lr = -1.0"):
        FedAvgMOptions(server_lr=-1.0)
