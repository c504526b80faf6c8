from __future__ import annotations

import numpy as np
import pytest
from quadratics import SCALAR, Fleet, Quadratic, pair
from samples import header

from fedfleet.algorithms.feddyn import FedDyn, FedDynOptions
from fedfleet.training.config import TrainingConfig

OPTIMUM = 10 / 11


def feddyn(alpha: float, **options: str) -> FedDyn:
    return FedDyn(FedDynOptions(alpha=alpha, **options))  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize(("alpha", "rounds"), [(1.0, 150), (10.0, 150)])
def test_feddyn_with_exact_solves_reaches_the_optimum(alpha: float, rounds: int) -> None:
    fleet = Fleet(feddyn(alpha), pair(steps=0), 5.0).rounds(rounds)

    assert fleet.x == pytest.approx(OPTIMUM, abs=1e-10)
    assert fleet.served == pytest.approx(OPTIMUM, abs=1e-10)


def test_feddyn_with_a_small_alpha_is_slow() -> None:
    fleet = Fleet(feddyn(0.1), pair(steps=0), 5.0).rounds(200)

    assert fleet.x == pytest.approx(0.909082, abs=5e-7)


def test_feddyn_with_sgd_reaches_the_optimum() -> None:
    fleet = Fleet(feddyn(1.0), pair(steps=30, training=TrainingConfig(lr=0.05)), 5.0).rounds(60)

    assert fleet.x == pytest.approx(OPTIMUM, abs=1e-6)


def test_feddyn_keeps_on_each_worker_the_gradient_at_its_solution() -> None:
    workers = pair(steps=0)
    fleet = Fleet(feddyn(1.0), workers, 5.0)

    fleet.round([1])

    # argmin 5 (y - 1)^2 + (y - 5)^2 / 2 is 15 / 11, where the gradient is 40 / 11.
    assert workers[1].memory["feddyn.own"][0] == pytest.approx(40 / 11)
    assert workers[0].memory == {}
    # h = -alpha / N sum (y - x), over the fleet of two.
    assert fleet.outcome.memory["feddyn.h"][0] == pytest.approx((5 - 15 / 11) / 2)


def test_feddyn_publishes_the_mean_and_goes_on_from_another_state() -> None:
    fleet = Fleet(feddyn(1.0), pair(steps=0), 5.0)

    fleet.round()

    solutions = np.array([5 / 2, 15 / 11])
    h = -(solutions - 5).sum() / 2
    assert fleet.served == pytest.approx(solutions.mean())
    assert fleet.x == pytest.approx(solutions.mean() - h)


def test_feddyn_can_publish_the_state_that_the_next_round_starts_from() -> None:
    fleet = Fleet(feddyn(1.0, serve="start"), pair(steps=0), 5.0).rounds(1)

    assert fleet.outcome.served is None


def test_feddyn_never_weighs_by_samples() -> None:
    even = Fleet(feddyn(1.0), pair(), 5.0).rounds(3)
    uneven = [Quadratic(1.0, 0.0, samples=9), Quadratic(10.0, 1.0)]

    assert Fleet(feddyn(1.0), uneven, 5.0).rounds(3).x == pytest.approx(even.x, rel=1e-13)
    assert feddyn(1.0).weight(header(weight=77.0)) == 1.0


def test_feddyn_starts_at_zero_and_must_know_the_fleet() -> None:
    assert feddyn(1.0).start(SCALAR)["feddyn.h"].tolist() == [0.0]
    assert FedDyn.needs_workers


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_feddyn_refuses_an_alpha_that_is_not_above_zero(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha = .*: must be above 0"):
        FedDynOptions(alpha=alpha)
