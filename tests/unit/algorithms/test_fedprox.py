from __future__ import annotations

import pytest
from quadratics import Fleet, Quadratic, pair
from samples import state

from fedfleet.algorithms.base import Received
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fedprox import FedProx, FedProxOptions
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.training.config import TrainingConfig

MOMENTUM = TrainingConfig(lr=0.02, momentum=0.9)


def test_fedprox_with_mu_zero_is_fedavg_bit_for_bit() -> None:
    runs = [
        Fleet(algorithm, pair(training=MOMENTUM), 5.0).rounds(5)
        for algorithm in (FedProx(FedProxOptions(mu=0.0)), FedAvg(FedAvgOptions()))
    ]

    assert runs[0].x == runs[1].x != 5.0
    assert FedProx(FedProxOptions(mu=0.0)).adjuster(Received(state(), {}, {})) is None


RECIPE = """
name = "same"
[model]
architecture = "mlp"
hidden = []
[data]
dataset = "synthetic"
partition = "dirichlet"
alpha = 1.0
workers = 2
[training]
momentum = 0.9
threads = 1
[rounds]
rounds = 3
cohort = 2
[algorithm]
"""


@pytest.mark.parametrize("same", ['name = "fedprox"\nmu = 0.0', 'name = "fedavgm"\nbeta = 0.0'])
def test_run_without_what_an_algorithm_adds_is_fedavgs_bit_for_bit(same: str) -> None:
    states = [
        simulate(parse_recipe(RECIPE + algorithm)).state
        for algorithm in ('name = "fedavg"', same, 'name = "fedprox"\nmu = 0.1')
    ]

    assert states[0].trainable.tobytes() == states[1].trainable.tobytes()
    assert states[0].trainable.tobytes() != states[2].trainable.tobytes()


@pytest.mark.parametrize(("mu", "expected"), [(1.0, 0.6451613), (0.1, 0.5213270)])
def test_fedprox_with_exact_solves_has_the_fixed_point_of_the_closed_form(
    mu: float, expected: float
) -> None:
    """Sum w_i b_i / sum w_i with w_i = a_i / (a_i + mu): still biased, and that is the method."""
    weights = [a / (a + mu) for a in (1.0, 10.0)]

    fleet = Fleet(FedProx(FedProxOptions(mu=mu)), pair(steps=0), 5.0).rounds(120)

    assert fleet.x == pytest.approx(weights[1] / sum(weights), abs=1e-9)
    assert fleet.x == pytest.approx(expected, abs=5e-8)


def test_fedprox_term_goes_into_the_momentum_as_the_loss_form_asks() -> None:
    """F + mu/2 (w - x)^2 of a quadratic is a quadratic: a + mu, around (a b + mu x) / (a + mu)."""
    mu, a, b, x = 0.5, 3.0, 1.0, -2.0
    adjusted = Fleet(FedProx(FedProxOptions(mu=mu)), [Quadratic(a, b, training=MOMENTUM)], x)
    loss_form = Quadratic(a + mu, (a * b + mu * x) / (a + mu), training=MOMENTUM)

    adjusted.round()

    assert adjusted.x == pytest.approx(
        Fleet(FedAvg(FedAvgOptions()), [loss_form], x).rounds(1).x, rel=1e-13
    )


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_fedprox_refuses_a_mu_below_zero(mu: float) -> None:
    with pytest.raises(ValueError, match=r"mu = .*: must be 0 or more"):
        FedProxOptions(mu=mu)
