"""Federated Gaussian weighting (FedGW): workers whose losses are unlike the cohort's count less.

The coordinator keeps a weight w_k per worker, 1/N at first. With the cohort S, W = sum_S w_k and
o_k = w_k / W, for each epoch e the losses have the weighted mean m[e], the sample variance
s2[e] = sum (l_k[e] - m[e])^2 / (|S| - 1), and the mean's variance
var[e] = s2[e] mean(o^2) / mean(o)^2 / |S|. The reward is
r_k = mean_e exp(-(l_k[e] - m[e])^2 / (2 var[e])), normalised over S; w_k becomes r_k W, and the
cohort's deltas are averaged by the new w_k. (Course project of 2023, published as code; its
clustered successor is Licciardi et al. 2025, arXiv 2502.03340.)

The cohort keeps its sum of weights, so the whole fleet's stays 1. Where all losses are equal, or
one worker takes part alone, weights stay as they are; a weight never falls below a floor, or a
worker could not come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

import numpy as np

from fedfleet.algorithms.base import (
    OWN_METRIC,
    Finished,
    Memory,
    Outcome,
    Received,
    RoundResult,
    Trained,
)
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, UpdateHeader

_WEIGHT = "fedgw."
_LOSS = OWN_METRIC + "fedgw_loss_{:02d}"
# Later epochs than these are left out: they would say little that is new.
MAX_EPOCHS = 48
# Of the mean weight of the cohort.
_FLOOR = 1e-6
# Squares of it are still finite.
MAX_LOSS = 1e100


@dataclass(frozen=True, kw_only=True, slots=True)
class FedGWOptions:
    """Options of ``fedgw``.

    Args:
        server_lr: step along the mean delta, > 0.
    """

    server_lr: float = 1.0

    def __post_init__(self) -> None:
        FedAvgOptions(server_lr=self.server_lr)


class FedGW(FedAvg):
    """FedAvg by weights that the losses earn."""

    weighs_together: ClassVar[bool] = True
    takes_levels: ClassVar[bool] = False

    def __init__(self, options: FedGWOptions) -> None:
        super().__init__(FedAvgOptions(server_lr=options.server_lr))

    def takes_partial(self, round: int) -> bool:
        """No: losses of epochs are compared, and a part of an epoch has another mean."""
        return False

    def finish(self, received: Received, trained: Trained) -> Finished:
        """Report the mean loss of each epoch."""
        losses = trained.work.epoch_losses[:MAX_EPOCHS]
        metrics = {_LOSS.format(epoch): loss for epoch, loss in enumerate(losses)}
        return Finished(self.built_in(trained), received.memory, metrics)

    def check_header(self, header: UpdateHeader) -> None:
        """Take no update without losses that can be compared."""
        losses = losses_of(header)
        if not losses or not all(0 <= loss <= MAX_LOSS for loss in losses):
            raise UpdateInvalid(
                f"metrics {_LOSS.format(0)} ...: must be a loss of 0 or more for each epoch"
            )

    def weights(self, headers: Sequence[UpdateHeader], memory: Memory) -> list[float]:
        """The cohort's new w_k, their sum unchanged."""
        before_K = np.array([_known(header.worker_id, memory) for header in headers])
        # Of the epochs that all report.
        losses_KE = np.array(list(zip(*(losses_of(header) for header in headers), strict=False))).T
        rewards_K = gaussian_rewards(losses_KE, before_K)
        floor = _FLOOR * float(rewards_K.mean())
        rewards_K = np.maximum(rewards_K, floor)
        after_K = before_K.sum() * rewards_K / rewards_K.sum()
        return [float(weight) for weight in after_K]

    def step(self, result: RoundResult) -> Outcome:
        """Move along the mean delta, and keep the weights by which it was taken."""
        kept = dict(result.memory)
        weights = self.weights(result.headers, result.memory)
        for header, weight in zip(result.headers, weights, strict=True):
            kept[_WEIGHT + header.worker_id] = np.array(weight)
        return Outcome(super().step(result).state, kept)


def gaussian_rewards(losses_KE: Array, weights_K: Array) -> Array:
    """Reward each worker by how near its losses are to the weighted mean.

    Args:
        losses_KE: mean loss of worker k in epoch e.
        weights_K: > 0.

    Returns:
        Shape (K,), in the proportions of the rewards, or of ``weights_K`` where the losses say
        nothing.
    """
    shares_K: Array = weights_K / weights_K.sum()
    count = len(weights_K)
    if count < 2:
        return shares_K
    mean_E = shares_K @ losses_KE
    squares_KE = (losses_KE - mean_E) ** 2
    spread = (shares_K**2).mean() / shares_K.mean() ** 2 / count
    variance_E = squares_KE.sum(0) / (count - 1) * spread
    # Equal losses may still differ from their mean, by its rounding.
    said_E = (losses_KE.max(0) > losses_KE.min(0)) & (variance_E > 0)
    if not said_E.any():
        return shares_K
    exponents_KE = squares_KE[:, said_E] / (2 * variance_E[said_E])
    # From the best on: in a large cohort all of them could underflow.
    rewards_K: Array = np.exp(exponents_KE.min() - exponents_KE).mean(1)
    return rewards_K


def _known(worker_id: str, memory: Memory) -> float:
    """w_k; the same for all that were never weighed, so that 1/N need not be known."""
    weight = memory.get(_WEIGHT + worker_id)
    return 1.0 if weight is None else float(weight)


def losses_of(header: UpdateHeader) -> list[float]:
    """The mean training loss of each epoch, up to the first epoch that was left out."""
    names = (_LOSS.format(epoch) for epoch in range(MAX_EPOCHS))
    return [header.metrics[name] for name in takewhile(header.metrics.__contains__, names)]
