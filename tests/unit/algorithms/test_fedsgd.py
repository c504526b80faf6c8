from __future__ import annotations

import pytest
from quadratics import Fleet, Quadratic

from fedfleet.algorithms.fedavg import FedAvgOptions
from fedfleet.algorithms.fedsgd import FedSGD
from fedfleet.training.config import TrainingConfig

FEDSGD = FedSGD(FedAvgOptions())


def test_fedsgd_round_is_one_step_along_the_gradient_of_the_whole_fleets_loss() -> None:
    workers = [Quadratic(1.0, 0.0, steps=1, samples=30), Quadratic(10.0, 1.0, steps=1, samples=10)]

    x = Fleet(FEDSGD, workers, 5.0).rounds(1).x

    gradient = (30 * 1.0 * (5.0 - 0.0) + 10 * 10.0 * (5.0 - 1.0)) / 40
    assert x == pytest.approx(5.0 - 0.02 * gradient, rel=1e-12)


def test_fedsgd_takes_one_epoch_of_one_batch() -> None:
    FEDSGD.check_training(TrainingConfig(epochs=1, batch_size=0))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (TrainingConfig(epochs=2, batch_size=0), "they are 2 and 0"),
        (TrainingConfig(epochs=1, batch_size=32), "they are 1 and 32"),
        (TrainingConfig(optimizer="adam", batch_size=0), 'set training.optimizer = "sgd"'),
    ],
)
def test_fedsgd_refuses_any_other_local_training(training: TrainingConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FEDSGD.check_training(training)
