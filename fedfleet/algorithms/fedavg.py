"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

Written in delta form, x+ = x + server_lr * sum_i p_i (y_i - x) with p_i = w_i / sum_j w_j, which
equals the paper's weighted average of the workers' models at server_lr = 1. Running statistics and
counters follow the aggregate and are never scaled by server_lr.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fedfleet.algorithms.base import DELTA, Algorithm, Outcome, RoundResult
from fedfleet.types import Array, ModelState, UpdateHeader


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAvgOptions:
    """Options of ``fedavg``, and of every algorithm that only changes what it averages.

    Args:
        server_lr: step along the mean delta, > 0; 1 is the paper's.
        weighting: by training samples, as in the paper, or every worker alike.
    """

    server_lr: float = 1.0
    weighting: Literal["samples", "uniform"] = "samples"

    def __post_init__(self) -> None:
        if not 0 < self.server_lr < float("inf"):
            raise ValueError(f"server_lr = {self.server_lr}: must be above 0")


class FedAvg(Algorithm):
    """Both halves of federated averaging; keeps no memory on either side."""

    def __init__(self, options: FedAvgOptions) -> None:
        self._options = options

    def weight(self, header: UpdateHeader) -> float:
        """n_i, or 1."""
        return header.weight if self._options.weighting == "samples" else 1.0

    @property
    def largest_weight(self) -> float | None:
        """1 where every worker counts alike."""
        return 1.0 if self._options.weighting == "uniform" else None

    def step(self, result: RoundResult) -> Outcome:
        """Move along the mean delta."""
        return Outcome(
            moved(result, self._options.server_lr * result.aggregate.means[DELTA]), result.memory
        )


def moved(result: RoundResult, step_P: Array) -> ModelState:
    """The base moved by a float64 step and rounded once; the other kinds are the aggregate's."""
    base_P = result.base.trainable
    return replace(
        result.base,
        trainable=(base_P + step_P).astype(base_P.dtype),
        statistics=result.aggregate.statistics,
        counters=result.aggregate.counters,
    )
