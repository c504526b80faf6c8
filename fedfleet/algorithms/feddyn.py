"""FedDyn (Acar et al. 2021, arXiv 2111.04263, Algorithm 1).

The worker minimises F_i(y) - <g_i, y> + alpha/2 |y - x|^2, so each step's gradient gets
alpha (y - x) - g_i; afterwards g_i+ = g_i - alpha (y - x). The coordinator keeps
h+ = h - alpha/N sum_S (y_i - x), and starts the next round from mean_S(y_i) - h+ / alpha.

That start may be a poor model in early rounds, so what is published and evaluated is the mean of
the cohort's models, as in the authors' code; training goes on from the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from fedfleet.algorithms.base import (
    DELTA,
    Algorithm,
    Finished,
    GradientAdjuster,
    Memory,
    Outcome,
    Received,
    RoundResult,
    Trained,
)
from fedfleet.algorithms.fedavg import moved
from fedfleet.algorithms.vectors import kept, parts_of
from fedfleet.types import Kind, Schema, UpdateHeader

if TYPE_CHECKING:
    from torch import Tensor

_OWN = "feddyn.own"  # g_i
_SUM = "feddyn.h"


@dataclass(frozen=True, kw_only=True, slots=True)
class FedDynOptions:
    """Options of ``feddyn``.

    Args:
        alpha: weight of the dynamic regulariser, > 0; too small and h / alpha throws the start of
            rounds about.
        serve: publish the cohort's mean model, or the model that the next round starts from.
    """

    alpha: float = 0.01
    serve: Literal["mean", "start"] = "mean"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha = {self.alpha}: must be above 0")


class FedDyn(Algorithm):
    """Dynamic regularisation; every worker counts alike."""

    needs_workers: ClassVar[bool] = True

    def __init__(self, options: FedDynOptions) -> None:
        self._alpha = options.alpha
        self._serve = options.serve

    # Worker half

    def adjuster(self, received: Received) -> GradientAdjuster:
        """Add alpha (y - x) - g_i."""
        anchors = parts_of(received.version.trainable)
        corrections = parts_of(kept(received, _OWN))

        def adjust(params: Sequence[Tensor]) -> None:
            for param, anchor, own in zip(
                params, anchors(params), corrections(params), strict=True
            ):
                if param.grad is not None:
                    param.grad.add_(param.detach() - anchor, alpha=self._alpha).sub_(own)

        return adjust

    def finish(self, received: Received, trained: Trained) -> Finished:
        """Send the delta; keep g_i - alpha (y - x)."""
        own_P = kept(received, _OWN) - self._alpha * trained.delta
        return Finished(self.built_in(trained), {_OWN: own_P})

    # Coordinator half

    def start(self, schema: Schema) -> Memory:
        """H = 0."""
        return {_SUM: np.zeros(schema.elements(Kind.TRAINABLE))}

    def weight(self, header: UpdateHeader) -> float:
        """Every worker alike."""
        return 1.0

    @property
    def largest_weight(self) -> float:
        """1."""
        return 1.0

    def step(self, result: RoundResult) -> Outcome:
        """Start the next round from the cohort's mean minus h / alpha; publish the mean."""
        mean_P = result.aggregate.means[DELTA]
        share = result.aggregate.updates / result.workers
        sum_P = result.memory[_SUM] - self._alpha * share * mean_P
        start = moved(result, mean_P - sum_P / self._alpha)
        served = moved(result, mean_P) if self._serve == "mean" else None
        return Outcome(start, {_SUM: sum_P}, served)
