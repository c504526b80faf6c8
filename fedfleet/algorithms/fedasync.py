"""FedAsync (Xie et al. 2019, arXiv:1903.03934, Algorithm 1): each worker's model is mixed in.

x+ = (1 - alpha_t) x + alpha_t y with alpha_t = mixing * s(staleness), as soon as a worker's model y
is there: ``rounds.cohort = 1``. A worker sends delta = y - x_i, so y = x_i + delta, with the
version x_i that it started from: unlike FedBuff a stale model draws the run back to where it began.
Workers minimise F_i(w) + mu/2 |w - x_i|^2 (the paper's rho).

With ``rounds.cohort`` K above 1, which the paper has not, a version mixes in the mean of the K
steps. Running statistics are mixed as the parameters are. With a lossy downlink a worker starts
from a base near x_i; what the base lacks of x_i is kept, as in every other algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedfleet.algorithms.asynchrony import AsynchronousAlgorithm, AsynchronousOptions
from fedfleet.algorithms.base import DELTA, GradientAdjuster, Outcome, Received, RoundResult
from fedfleet.algorithms.fedprox import proximal
from fedfleet.types import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAsyncOptions(AsynchronousOptions):
    """Options of ``fedasync``.

    Args:
        mixing: alpha, the share of a fresh model in the next version, in (0, 1].
        mu: weight of the proximal term, >= 0.
    """

    mixing: float = 0.6
    mu: float = 0.0

    def __post_init__(self) -> None:
        AsynchronousOptions.__post_init__(self)
        if not 0 < self.mixing <= 1:
            raise ValueError(f"mixing = {self.mixing}: must be above 0 and at most 1")
        if not 0 <= self.mu < float("inf"):
            raise ValueError(f"mu = {self.mu}: must be 0 or more")


class FedAsync(AsynchronousAlgorithm):
    """Both halves of FedAsync; keeps no memory on either side."""

    def __init__(self, options: FedAsyncOptions) -> None:
        super().__init__(options)
        self._mixing = options.mixing
        self._mu = options.mu

    def adjuster(self, received: Received) -> GradientAdjuster | None:
        """Add mu (w - x_i)."""
        return proximal(self._mu, self.start_from(received).trainable)

    def step(self, result: RoundResult) -> Outcome:
        """Mix the workers' models into the version."""
        base, aggregate = result.base, result.aggregate
        share = aggregate.total_weight / aggregate.updates
        step_P = aggregate.means[DELTA] * share + self._drawn_back(result)
        alpha = self._mixing * share
        before = base.statistics.astype(np.float64)
        statistics = before + alpha * (aggregate.statistics - before)
        state = replace(
            base,
            trainable=(base.trainable + self._mixing * step_P).astype(base.trainable.dtype),
            statistics=statistics.astype(base.statistics.dtype),
            counters=np.maximum(base.counters, aggregate.counters),
        )
        return Outcome(state, result.memory)

    def _drawn_back(self, result: RoundResult) -> Array:
        """The mean of s(staleness_i) (x_i - x), float64, shape (P,)."""
        total_P = np.zeros(result.base.trainable.shape)
        for round in _stale(result):
            start_P = result.start_of(round).trainable.astype(np.float64)
            weight = math.fsum(
                self.freshness(result.round - header.round)
                for header in result.headers
                if header.round == round
            )
            total_P += weight * (start_P - result.base.trainable)
        return total_P / len(result.headers)


def _stale(result: RoundResult) -> Sequence[int]:
    """The earlier rounds that updates come from, in order."""
    return sorted({header.round for header in result.headers} - {result.round})
