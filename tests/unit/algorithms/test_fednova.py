from __future__ import annotations

import pytest
import torch
from quadratics import Fleet, Quadratic
from samples import BASE_DIGEST, header, state, update
from torch import nn

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fednova import FedNova
from fedfleet.errors import UpdateInvalid
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rounds.round_sum import RoundSum
from fedfleet.training.config import TrainingConfig
from fedfleet.training.optim import make_optimizer, reach

FEDNOVA = FedNova(FedAvgOptions())
RECIPE = """
name = "checked"
[model]
architecture = "mlp"
[data]
dataset = "synthetic"
[rounds]
rounds = 1
cohort = 2
[algorithm]
name = "fednova"
"""
SLOW = TrainingConfig(lr=0.01)


def toy() -> list[Quadratic]:
    """f = (x - b)^2 / 2 with b = 0, 1 and 1, 9 steps."""
    return [Quadratic(1.0, b, steps=n, training=SLOW) for b, n in ((0.0, 1), (1.0, 9))]


@pytest.mark.parametrize(("steps", "expected"), [(1, 1.0), (2, 2.9), (5, 13.1441), (10, 41.38106)])
def test_reach_with_momentum_is_the_papers_norm_of_a(steps: int, expected: float) -> None:
    found = reach(TrainingConfig(momentum=0.9), [1.0] * steps)

    rho = 0.9
    assert found == pytest.approx((steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho))
    assert found == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(),
        TrainingConfig(momentum=0.9),
        TrainingConfig(momentum=0.5, nesterov=True),
    ],
)
@pytest.mark.parametrize("lrs", [[0.1] * 7, [0.3, 0.2, 0.1, 0.05]])
def test_reach_is_how_far_torchs_sgd_goes_along_a_gradient_of_one(
    training: TrainingConfig, lrs: list[float]
) -> None:
    param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = make_optimizer([param], training, lrs[0])
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()

    assert reach(training, lrs) == pytest.approx(-float(param.detach()), rel=1e-12)


def test_fednova_undoes_the_pull_of_workers_that_take_more_steps() -> None:
    biased = Fleet(FedAvg(FedAvgOptions()), toy(), 0.5).rounds(450)
    fair = Fleet(FedNova(FedAvgOptions()), toy(), 0.5).rounds(450)

    assert biased.x == pytest.approx(0.8963545, abs=5e-8)
    assert fair.x == pytest.approx(0.4900352, abs=6e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_with_equal_steps_is_fedavg(momentum: float) -> None:
    training = TrainingConfig(lr=0.02, momentum=momentum)
    workers = [
        [Quadratic(1.0, 0.0, samples=3, training=training), Quadratic(2.0, 1.0, training=training)]
        for _ in range(2)
    ]

    nova = Fleet(FEDNOVA, workers[0], 5.0).rounds(4)

    assert nova.x == pytest.approx(Fleet(FedAvg(FedAvgOptions()), workers[1], 5.0).rounds(4).x)


@pytest.mark.parametrize(("weighting", "p"), [("samples", 0.75), ("uniform", 0.5)])
def test_fednova_step_is_the_papers_equation(weighting: str, p: float) -> None:
    options = FedAvgOptions(server_lr=0.5, weighting=weighting)  # type: ignore[arg-type]  # a text
    workers = [
        Quadratic(1.0, 0.0, steps=1, samples=3, training=SLOW),
        Quadratic(1.0, 1.0, steps=2, training=SLOW),
    ]

    fleet = Fleet(FedNova(options), workers, 5.0).rounds(1)

    directions = 5.0, (5 - 1) * (1 - 0.99**2) / 0.02
    mean_reach = p * 0.01 + (1 - p) * 0.02
    step = mean_reach * (p * directions[0] + (1 - p) * directions[1])
    assert fleet.x == pytest.approx(5.0 - 0.5 * step, rel=1e-12)


@pytest.mark.parametrize("reach", [None, 0.0, -1.0, 1e7])
def test_fednova_admits_no_update_without_a_reach(reach: float | None) -> None:
    metrics = {} if reach is None else {"algorithm.fednova_reach": reach}

    with pytest.raises(UpdateInvalid, match=r"fednova_reach = .*: must be above 0"):
        FEDNOVA.check_header(header(metrics=metrics))

    FEDNOVA.check_header(header(metrics={"algorithm.fednova_reach": 0.4}))


def test_fednova_asks_for_sgd() -> None:
    with pytest.raises(ValueError, match=r'set training.optimizer = "sgd"'):
        FEDNOVA.check_training(TrainingConfig(optimizer="adamw"))


def test_round_sum_asks_the_algorithm_about_each_header() -> None:
    recipe = parse_recipe(RECIPE)
    base = state()
    total = RoundSum(recipe, FEDNOVA, base, {})

    total.check(update(metrics={"algorithm.fednova_reach": 0.4}), BASE_DIGEST)
    with pytest.raises(UpdateInvalid, match=r"algorithm\.fednova_reach"):
        total.check(update(), BASE_DIGEST)
