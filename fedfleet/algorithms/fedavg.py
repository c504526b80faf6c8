"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

Written in delta form, x+ = x + server_lr * sum_i p_i (y_i - x) with p_i = w_i / sum_j w_j, which
equals the paper's weighted average of the workers' models at server_lr = 1. Running statistics and
counters follow the aggregate and are never scaled by server_lr.

Where workers are drawn with unequal chances pi_i, the mean over the cohort leans to those that are
drawn most. With m drawn of N candidates and c_i = m / (N pi_i), two weightings make up for it:
``participation`` takes (1 / |S|) sum_S c_i (y_i - x), in expectation the mean over all candidates
alike, exactly (Horvitz and Thompson 1952); its length varies from round to round.
``participation-samples`` takes the mean by weights n_i c_i, for the mean by samples; since the
fleet's samples are not known the weights are normalised over the cohort (Hajek 1971), so it is
unbiased only as the cohort grows. Statistics are normalised means in both. Where fewer than the
drawn ones deliver, those that do stand for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fedfleet.aggregation.accumulator import Aggregate
from fedfleet.algorithms.base import DELTA, Algorithm, Outcome, RoundResult
from fedfleet.types import Array, ModelState, UpdateHeader

# The largest c_i: a selection draws nobody more rarely than that.
MAX_CORRECTION = 1024.0
_BY_SAMPLES = ("samples", "participation-samples")
_CORRECTED = ("participation", "participation-samples")


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAvgOptions:
    """Options of ``fedavg``, and of every algorithm that only changes what it averages.

    Args:
        server_lr: step along the mean delta, > 0; 1 is the paper's.
        weighting: by training ``samples``, as in the paper; ``uniform``, every worker alike; or, to
            make up for a selection with unequal chances, ``participation``, unbiased for every
            worker alike, and ``participation-samples``, nearly so for by samples.
    """

    server_lr: float = 1.0
    weighting: Literal["samples", "uniform", "participation", "participation-samples"] = "samples"

    def __post_init__(self) -> None:
        if not 0 < self.server_lr < float("inf"):
            raise ValueError(f"server_lr = {self.server_lr}: must be above 0")


class FedAvg(Algorithm):
    """Both halves of federated averaging; keeps no memory on either side."""

    takes_levels = True

    def __init__(self, options: FedAvgOptions) -> None:
        self._options = options

    def weight(self, header: UpdateHeader) -> float:
        """n_i, or 1."""
        return header.weight if self._options.weighting in _BY_SAMPLES else 1.0

    @property
    def largest_weight(self) -> float | None:
        """Known where every worker counts alike."""
        return None if self._options.weighting in _BY_SAMPLES else 1.0

    @property
    def corrects_chances(self) -> bool:
        """Whether the weighting is for unequal chances."""
        return self._options.weighting in _CORRECTED

    def mean_delta(self, result: RoundResult) -> Array:
        """The mean over the cohort, or what is expected to be the mean over all; shape (P,)."""
        aggregate = result.aggregate
        mean_P = aggregate.means[DELTA]
        if self._options.weighting != "participation":
            return mean_P
        # The sum of c_i over the cohort is the number of updates only in the mean.
        scaled_P: Array = mean_P * (aggregate.total_weight / aggregate.updates)
        return scaled_P

    def step(self, result: RoundResult) -> Outcome:
        """Move along the mean delta."""
        return Outcome(
            moved(result, self._options.server_lr * self.mean_delta(result)), result.memory
        )


def moved(result: RoundResult, step_P: Array) -> ModelState:
    """The base moved by a float64 step and rounded once; the other kinds are the aggregate's."""
    return stepped(result.base, result.aggregate, step_P)


def stepped(start: ModelState, aggregate: Aggregate, step_P: Array) -> ModelState:
    """As ``moved``, for the model of any lane."""
    return replace(
        start,
        trainable=(start.trainable + step_P).astype(start.trainable.dtype),
        statistics=aggregate.statistics,
        counters=aggregate.counters,
    )
