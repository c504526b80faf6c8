from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from quadratics import SCALAR, Fleet, Quadratic, pair
from samples import SCHEMA, header, state
from torch import nn

from fedfleet.algorithms.base import LocalWork, Received, Trained
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.scaffold import Scaffold, ScaffoldOptions
from fedfleet.training.config import TrainingConfig
from fedfleet.types import Kind

OPTIMUM = 10 / 11
SCAFFOLD = Scaffold(ScaffoldOptions())
ELEMENTS = SCHEMA.elements(Kind.TRAINABLE)


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_reaches_the_optimum_that_fedavg_misses(option: Literal["I", "II"]) -> None:
    fleet = Fleet(Scaffold(ScaffoldOptions(option=option)), pair(), 5.0).rounds(150)

    assert fleet.x == pytest.approx(OPTIMUM, abs=1e-12)


@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(lr=0.002, momentum=0.9),
        TrainingConfig(lr=0.002, momentum=0.9, nesterov=True),
    ],
)
def test_scaffold_keeps_the_fixed_point_under_momentum(training: TrainingConfig) -> None:
    fleet = Fleet(SCAFFOLD, pair(training=training), 5.0).rounds(250)

    assert fleet.x == pytest.approx(OPTIMUM, abs=1e-9)
    # c_i is the gradient at the optimum, not 1 / (1 - momentum) times it.
    assert fleet.workers[0].memory["scaffold.own"][0] == pytest.approx(OPTIMUM, abs=1e-6)


def test_scaffold_divides_by_the_steps_that_each_worker_took() -> None:
    workers = [Quadratic(1.0, 0.0, steps=3), Quadratic(10.0, 1.0, steps=11)]

    assert Fleet(SCAFFOLD, workers, 5.0).rounds(250).x == pytest.approx(OPTIMUM, abs=1e-10)


def sampled(algorithm: Scaffold | FedAvg, rounds: int) -> tuple[Fleet, list[float]]:
    """Ten workers of which two take part in a round, and the last places of x."""
    optima = np.linspace(-1, 1, 10)
    curvatures = np.linspace(1, 10, 10)
    workers = [Quadratic(a, b) for a, b in zip(curvatures, optima, strict=True)]
    fleet, draws = Fleet(algorithm, workers, 0.0), np.random.default_rng(1)
    places = []
    for _ in range(rounds):
        fleet.round(draws.choice(10, 2, replace=False).tolist())
        places.append(fleet.x)
    best = float((curvatures * optima).sum() / curvatures.sum())
    return fleet, [place - best for place in places[-30:]]


def test_scaffold_with_two_of_ten_workers_per_round_reaches_the_optimum() -> None:
    _, errors = sampled(SCAFFOLD, 330)

    assert max(map(abs, errors)) < 1e-12


def test_fedavg_with_two_of_ten_workers_per_round_keeps_fluctuating() -> None:
    _, errors = sampled(FedAvg(FedAvgOptions()), 60)

    assert np.std(errors) > 0.1


def test_scaffold_coordinator_moves_c_by_the_share_that_took_part() -> None:
    workers = [Quadratic(2.0, 1.0, steps=1) for _ in range(4)]
    fleet = Fleet(SCAFFOLD, workers, 0.0)

    fleet.round([2])

    # c_2+ is the gradient -2; a mean over the cohort would be -2, over the fleet it is a quarter.
    assert workers[2].memory["scaffold.own"][0] == pytest.approx(-2.0)
    assert fleet.outcome.memory["control"][0] == pytest.approx(-0.5)


def test_scaffold_variates_start_at_zero_and_a_late_joiner_gets_none_of_the_model() -> None:
    version, control = state(seed=3), np.linspace(-1, 1, ELEMENTS, dtype=np.float32)
    received = Received(version, {"control": control}, {})
    param = nn.Parameter(torch.zeros(ELEMENTS))
    param.grad = torch.ones(ELEMENTS)

    SCAFFOLD.adjuster(received)([param])

    assert SCAFFOLD.start(SCALAR)["control"].tolist() == [0.0]
    # g + c - c_i with c_i = 0.
    np.testing.assert_array_equal(param.grad.numpy(), 1 + control)


def test_scaffold_variates_cover_trainable_parameters_only() -> None:
    start, end = state(seed=1), state(seed=2)
    work = LocalWork(samples=3, steps=2, lr_sum=0.2, reach=0.2)
    received = Received(start, {"control": np.zeros(ELEMENTS, np.float32)}, {})

    finished = SCAFFOLD.finish(received, Trained(start, end, work, lambda: start.trainable))

    assert finished.sections[-1].name == "control"
    assert finished.sections[-1].kind is Kind.TRAINABLE
    assert finished.sections[-1].elements == ELEMENTS < sum(p.elements for p in SCHEMA.params)
    assert finished.memory["scaffold.own"].shape == (ELEMENTS,)
    sent = SCAFFOLD.broadcast(SCHEMA, SCAFFOLD.start(SCHEMA))
    assert [(s.name, s.elements, s.values.dtype.name) for s in sent] == [
        ("control", ELEMENTS, "float32")
    ]
    # Statistics travel as values, not corrected.
    np.testing.assert_array_equal(finished.sections[1].values, end.statistics)


def test_scaffold_option_two_is_the_papers_update_of_the_variate() -> None:
    start, end = state(seed=1), state(seed=2)
    own, control = (
        np.random.default_rng(seed).normal(size=ELEMENTS).astype(np.float32) for seed in (5, 6)
    )
    work = LocalWork(samples=3, steps=4, lr_sum=0.4, reach=0.4)
    received = Received(start, {"control": control}, {"scaffold.own": own})

    finished = SCAFFOLD.finish(received, Trained(start, end, work, lambda: start.trainable))

    expected = own - control + (start.trainable - end.trainable) / (4 * 0.1)
    np.testing.assert_allclose(finished.memory["scaffold.own"], expected, rtol=1e-5)
    change = finished.sections[-1].values
    np.testing.assert_allclose(change, expected - own, rtol=1e-5)
    assert change.dtype == np.float32


def test_scaffold_never_weighs_by_samples() -> None:
    even = Fleet(SCAFFOLD, pair(), 5.0).rounds(3)
    uneven = Fleet(SCAFFOLD, [Quadratic(1.0, 0.0, samples=9), Quadratic(10.0, 1.0)], 5.0).rounds(3)

    assert even.x == pytest.approx(uneven.x, rel=1e-13)
    assert SCAFFOLD.weight(header(weight=77.0)) == 1.0


def test_scaffold_asks_for_sgd_and_for_the_size_of_the_fleet() -> None:
    assert Scaffold.needs_workers
    SCAFFOLD.check_training(TrainingConfig(momentum=0.9))
    with pytest.raises(ValueError, match=r'set training.optimizer = "sgd"'):
        SCAFFOLD.check_training(TrainingConfig(optimizer="adam"))


def test_scaffold_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"server_lr = 0.0"):
        ScaffoldOptions(server_lr=0.0)
