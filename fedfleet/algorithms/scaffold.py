"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1).

Each step goes along g_i(y) - c_i + c. Afterwards c_i+ is the gradient at the received version
(option I), or c_i - c + (x - y) / (K lr) (option II). The worker sends y - x and c_i+ - c_i; the
coordinator takes plain means: x+ = x + lr_g mean(y - x), c+ = c + |S| / N mean(c_i+ - c_i).

Both variates cover trainable parameters only and start at zero. The correction goes into the
gradient before momentum, and K lr is what the steps really reach along a constant gradient
(``LocalWork.reach``): with momentum K lr itself would over-scale c_i and move the fixed point.
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
    TrainingSettings,
)
from fedfleet.algorithms.fedavg import FedAvgOptions, moved
from fedfleet.algorithms.vectors import check_sgd, kept, parts_of
from fedfleet.types import Kind, Schema, Section, UpdateHeader

if TYPE_CHECKING:
    from torch import Tensor

_OWN = "scaffold.own"  # c_i
_CONTROL = "control"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaffoldOptions:
    """Options of ``scaffold``.

    Args:
        option: how the worker's control variate follows: ``I`` by one more pass over its data,
            ``II`` from the steps that it took.
        server_lr: step along the mean delta, > 0.
    """

    option: Literal["I", "II"] = "II"
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        FedAvgOptions(server_lr=self.server_lr)


class Scaffold(Algorithm):
    """Control variates on both sides; every worker counts alike."""

    sections: ClassVar[tuple[str, ...]] = (_CONTROL,)
    needs_workers: ClassVar[bool] = True

    def __init__(self, options: ScaffoldOptions) -> None:
        self._options = options

    def check_training(self, training: TrainingSettings) -> None:
        check_sgd(training)

    # Worker half

    def adjuster(self, received: Received) -> GradientAdjuster:
        """Add c - c_i."""
        corrections = parts_of(received.broadcast[_CONTROL] - kept(received, _OWN))

        def adjust(params: Sequence[Tensor]) -> None:
            for param, correction in zip(params, corrections(params), strict=True):
                if param.grad is not None:
                    param.grad.add_(correction)

        return adjust

    def finish(self, received: Received, trained: Trained) -> Finished:
        """Send the delta and how the control variate changed; keep the new one."""
        own_P = kept(received, _OWN)
        if self._options.option == "I":
            next_P = trained.gradient()
        else:
            drift_P = trained.delta.astype(np.float64) / trained.work.reach
            next_P = (own_P - received.broadcast[_CONTROL] - drift_P).astype(own_P.dtype)
        change = Section(_CONTROL, Kind.TRAINABLE, next_P - own_P)
        return Finished((*self.built_in(trained), change), {_OWN: next_P})

    # Coordinator half

    def start(self, schema: Schema) -> Memory:
        """C = 0."""
        return {_CONTROL: np.zeros(schema.elements(Kind.TRAINABLE))}

    def broadcast(self, schema: Schema, memory: Memory) -> tuple[Section, ...]:
        """Send c."""
        return (Section(_CONTROL, Kind.TRAINABLE, memory[_CONTROL].astype(np.float32)),)

    def weight(self, header: UpdateHeader) -> float:
        """Every worker alike: weights by samples converge to neither objective."""
        return 1.0

    @property
    def largest_weight(self) -> float:
        """1."""
        return 1.0

    def step(self, result: RoundResult) -> Outcome:
        """Move along the mean delta, and c by the share of the fleet that took part."""
        aggregate = result.aggregate
        share = aggregate.updates / result.workers
        control_P = result.memory[_CONTROL] + share * aggregate.means[_CONTROL]
        step_P = self._options.server_lr * aggregate.means[DELTA]
        return Outcome(moved(result, step_P), {_CONTROL: control_P})
