"""FedNova (Wang et al. 2020, arXiv 2007.07481, equation 6).

Workers that take different numbers of steps pull the average towards those that take most. Each
delta is divided by how far its steps reach (the 1-norm of the vector a times the learning rate,
``LocalWork.reach``), the mean is taken, and multiplied by the mean reach:
x+ = x + (sum_i p_i r_i) * sum_i p_i (y_i - x) / r_i.
"""

from __future__ import annotations

import math

import numpy as np

from fedfleet.algorithms.base import (
    DELTA,
    OWN_METRIC,
    Finished,
    Outcome,
    Received,
    RoundResult,
    Trained,
    TrainingSettings,
)
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions, moved
from fedfleet.algorithms.vectors import check_sgd
from fedfleet.errors import UpdateInvalid
from fedfleet.types import UpdateHeader

_REACH = OWN_METRIC + "fednova_reach"
# Steps times learning rate, and more with momentum.
MAX_REACH = 1e6


class FedNova(FedAvg):
    """FedAvg of normalised deltas."""

    takes_levels = False

    def __init__(self, options: FedAvgOptions) -> None:
        super().__init__(options)
        self._server_lr = options.server_lr

    def check_training(self, training: TrainingSettings) -> None:
        check_sgd(training)
        if self.corrects_chances:
            raise ValueError('is defined for weighting = "samples" or "uniform"')

    def finish(self, received: Received, trained: Trained) -> Finished:
        """Send the delta per unit of reach, and the reach."""
        reach = trained.work.reach
        delta_P = (trained.delta.astype(np.float64) / reach).astype(trained.delta.dtype)
        return Finished(self.built_in(trained, delta_P), received.memory, {_REACH: reach})

    def check_header(self, header: UpdateHeader) -> None:
        """Take no update whose reach is unknown: the mean reach scales the round's whole step."""
        reach = header.metrics.get(_REACH)
        if reach is None or not 0 < reach <= MAX_REACH:
            raise UpdateInvalid(
                f"metric {_REACH} = {reach}: must be above 0 and at most {MAX_REACH:g}"
            )

    def step(self, result: RoundResult) -> Outcome:
        """Move along the mean direction, as far as the workers reached in the mean."""
        weights = [self.weight(header) for header in result.headers]
        reaches = [header.metrics[_REACH] for header in result.headers]
        mean_reach = math.fsum(w * r for w, r in zip(weights, reaches, strict=True)) / math.fsum(
            weights
        )
        step_P = self._server_lr * mean_reach * result.aggregate.means[DELTA]
        return Outcome(moved(result, step_P), result.memory)
