"""FedSGD (McMahan et al. 2017, arXiv 1602.05629, section 2): one step on all local examples.

The mean of the workers' steps is one step along the gradient of the whole fleet's loss. It is
FedAvg with one epoch of one batch, and refuses a recipe that says otherwise.
"""

from __future__ import annotations

from fedfleet.algorithms.base import TrainingSettings
from fedfleet.algorithms.fedavg import FedAvg
from fedfleet.algorithms.vectors import check_sgd


class FedSGD(FedAvg):
    """FedAvg of single full-batch steps."""

    def check_training(self, training: TrainingSettings) -> None:
        check_sgd(training)
        if training.epochs != 1 or training.batch_size != 0:
            raise ValueError(
                "takes one step on all examples; set training.epochs = 1 and "
                f"training.batch_size = 0 (they are {training.epochs} and {training.batch_size})"
            )
