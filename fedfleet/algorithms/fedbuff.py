"""FedBuff (Nguyen et al. 2022, arXiv:2106.06639, Algorithm 1): buffered asynchronous averaging.

As soon as K updates are there, whoever sent them, they become the next version,
x+ = x + server_lr / K * sum_i s(staleness_i) (y_i - x_i), where x_i is the version that worker i
started from, and K is ``rounds.cohort``. Divided by K, not by the sum of s: with two updates of
staleness 0 and 3 and s the inverse root, (1 d_1 + 0.5 d_2) / 2. Fresh updates of K workers make
the mean of ``fedavg`` with ``weighting = "uniform"``, bit for bit.

Differs from the paper: running statistics move towards the buffer's mean by s, by the mean of s:
a buffer of stale updates moves them less, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedfleet.algorithms.asynchrony import AsynchronousAlgorithm, AsynchronousOptions
from fedfleet.algorithms.base import DELTA, Outcome, RoundResult
from fedfleet.algorithms.fedavg import moved


@dataclass(frozen=True, kw_only=True, slots=True)
class FedBuffOptions(AsynchronousOptions):
    """Options of ``fedbuff``.

    Args:
        server_lr: step along the buffer's mean, > 0.
    """

    server_lr: float = 1.0

    def __post_init__(self) -> None:
        AsynchronousOptions.__post_init__(self)
        if not 0 < self.server_lr < float("inf"):
            raise ValueError(f"server_lr = {self.server_lr}: must be above 0")


class FedBuff(AsynchronousAlgorithm):
    """Local training is FedAvg's; a version is a step along the buffer."""

    def __init__(self, options: FedBuffOptions) -> None:
        super().__init__(options)
        self._server_lr = options.server_lr

    def step(self, result: RoundResult) -> Outcome:
        """Move by the sum of the weighted deltas over their number."""
        aggregate = result.aggregate
        share = aggregate.total_weight / aggregate.updates
        mean_P = aggregate.means[DELTA] * share
        state = moved(result, self._server_lr * mean_P)
        # A stale worker counted fewer batches than the version has.
        counters = np.maximum(result.base.counters, state.counters)
        # As far as the buffer is fresh.
        before = result.base.statistics.astype(np.float64)
        statistics = before + share * (aggregate.statistics - before)
        if share == 1.0:  # the mean of fedavg, bit for bit
            statistics = aggregate.statistics
        return Outcome(
            replace(
                state,
                counters=counters,
                statistics=statistics.astype(result.base.statistics.dtype),
            ),
            result.memory,
        )
