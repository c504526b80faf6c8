"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

Written in delta form, x+ = x + server_lr * sum_i p_i (y_i - x) with p_i = w_i / sum_j w_j, which
equals the paper's weighted average of the workers' models at server_lr = 1. Running statistics and
counters follow the aggregate and are never scaled by server_lr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedfleet.aggregation.accumulator import Aggregate
from fedfleet.algorithms.base import GradientAdjuster, LocalWork, Memory
from fedfleet.types import Kind, ModelState, Schema, Section, UpdateHeader


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAvgOptions:
    """Options of ``fedavg``.

    Args:
        server_lr: step along the mean delta, > 0; 1 is the paper's.
        weighting: by training samples, as in the paper, or every worker alike.
    """

    server_lr: float = 1.0
    weighting: Literal["samples", "uniform"] = "samples"

    def __post_init__(self) -> None:
        if not 0 < self.server_lr < float("inf"):
            raise ValueError(f"server_lr = {self.server_lr}: must be above 0")


class FedAvg:
    """Both halves of federated averaging; keeps no memory on either side."""

    def __init__(self, options: FedAvgOptions) -> None:
        self._options = options

    # Worker half

    def adjuster(
        self, received: ModelState, broadcast: Sequence[Section], memory: Memory
    ) -> GradientAdjuster | None:
        """Leave local SGD as it is."""
        return None

    def finish(
        self,
        received: ModelState,
        trained: ModelState,
        work: LocalWork,
        broadcast: Sequence[Section],
        memory: Memory,
    ) -> tuple[tuple[Section, ...], Memory]:
        """Return the delta of the trainable parameters, and statistics and counters as values."""
        delta = trained.trainable - received.trainable
        return (
            Section(Kind.TRAINABLE.value, Kind.TRAINABLE, delta),
            Section(Kind.STATISTIC.value, Kind.STATISTIC, trained.statistics),
            Section(Kind.COUNTER.value, Kind.COUNTER, trained.counters),
        ), memory

    # Coordinator half

    def start(self, schema: Schema) -> Memory:
        """Keep nothing."""
        return {}

    def broadcast(self, schema: Schema, memory: Memory) -> tuple[Section, ...]:
        """Send nothing but the version."""
        return ()

    def weight(self, header: UpdateHeader) -> float:
        """n_i, or 1."""
        return header.weight if self._options.weighting == "samples" else 1.0

    def step(
        self, base: ModelState, aggregate: Aggregate, memory: Memory
    ) -> tuple[ModelState, Memory]:
        """Move along the mean delta; computed in float64 and rounded once."""
        mean_delta_P = aggregate.means[Kind.TRAINABLE.value]
        trainable_P = base.trainable + self._options.server_lr * mean_delta_P
        return ModelState(
            base.schema,
            trainable_P.astype(np.float32),
            aggregate.statistics,
            aggregate.counters,
        ), memory
