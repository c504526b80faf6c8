"""Who trains in a stack, and which examples each takes in which step.

Legend: S = steps of the longest, W = workers, B = batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedfleet.algorithms.base import GradientAdjuster
from fedfleet.data.images import Index
from fedfleet.data.shard import Examples
from fedfleet.training.batches import batch_bounds
from fedfleet.training.config import TrainingConfig
from fedfleet.training.optim import cosine_lr
from fedfleet.training.seeding import derive, torch_generator
from fedfleet.types import ModelState


@dataclass(frozen=True, eq=False, kw_only=True)
class Member:
    """One worker of a stack.

    Args:
        start: the state that it trains from.
        validation: held-out examples; may be empty.
        epochs: passes over its training examples.
        seed: of the order of examples in this round, as in ``LoopTask``.
        round: counted from 1, of ``rounds``.
        adjuster: the algorithm's; None for most.
        rms_loss: as in ``LoopTask``.
    """

    start: ModelState
    training: Examples
    validation: Examples
    epochs: int
    seed: int
    round: int
    rounds: int
    adjuster: GradientAdjuster | None
    rms_loss: bool

    def batches(self, config: TrainingConfig) -> list[Index]:
        """The rows of its examples in each step, shape (B,), in the order of the plain loop."""
        chance = torch_generator(derive(self.seed, "order"))
        examples = len(self.training)
        rows = []
        for _ in range(self.epochs):
            order = torch.randperm(examples, generator=chance).numpy()
            rows += [order[start:stop] for start, stop in batch_bounds(examples, config.batch_size)]
        return rows

    def rates(self, config: TrainingConfig, steps: int) -> list[float]:
        """The learning rate of each of its steps."""
        if config.scheduler != "cosine":
            return [config.lr] * steps
        before, total = (self.round - 1) * steps, self.rounds * steps
        return [cosine_lr(config, before + step, total) for step in range(steps)]


@dataclass(frozen=True, eq=False)
class Batch:
    """One step of those who still train.

    Args:
        index_WB: rows among the examples of all members.
        share_WB: of each in its worker's mean; 0 where the worker has fewer.
    """

    index_WB: Tensor
    share_WB: Tensor


@dataclass(frozen=True, eq=False)
class Plan:
    """The batches of all members, filled up with a row that counts nothing.

    Args:
        sizes_SW: examples of each step, float64; 0 once a worker is done.
    """

    steps_W: list[int]
    sizes_SW: Tensor
    index_SWB: Tensor
    share_SWB: Tensor

    @classmethod
    def of(cls, batches: Sequence[Sequence[Index]], examples: Sequence[int]) -> Plan:
        """Lay out the batches of each worker.

        Args:
            batches: of the workers with the most steps first, so that those who still train are
                always the first rows.
            examples: how many each worker has.
        """
        steps_W = [len(part) for part in batches]
        widest = max(len(rows) for part in batches for rows in part)
        index_SWB = np.zeros((max(steps_W), len(batches), widest), np.int64)
        sizes_SW = np.zeros(index_SWB.shape[:2])
        first = 0
        for w, (part, count) in enumerate(zip(batches, examples, strict=True)):
            # An empty place is an example of its own: what others hold must not reach it.
            index_SWB[:, w] = first if count else 0
            for step, rows in enumerate(part):
                index_SWB[step, w, : len(rows)] = rows + first
                sizes_SW[step, w] = len(rows)
            first += count
        is_real_SWB = np.arange(widest) < sizes_SW[:, :, None]
        share_SWB = (is_real_SWB / sizes_SW.clip(min=1)[:, :, None]).astype(np.float32)
        return cls(steps_W, *map(torch.from_numpy, (sizes_SW, index_SWB, share_SWB)))

    def __iter__(self) -> Iterator[Batch]:
        """The steps in order."""
        workers_S = (self.sizes_SW > 0).sum(1).tolist()
        widths_S = self.sizes_SW.amax(1).long().tolist()
        for step, (workers, width) in enumerate(zip(workers_S, widths_S, strict=True)):
            here = (step, slice(workers), slice(width))
            yield Batch(self.index_SWB[here], self.share_SWB[here])
