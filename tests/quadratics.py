"""Rounds of real algorithms over losses whose answers are known on paper, in float64.

The wire's float32 would hide the ninth digit, so states are wide here; both halves, the optimizer
and the exact sum are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from samples import header
from torch import nn

from fedfleet.aggregation.accumulator import UpdateAccumulator
from fedfleet.algorithms.base import (
    Algorithm,
    LocalWork,
    Memory,
    Outcome,
    Received,
    RoundResult,
    Trained,
)
from fedfleet.algorithms.plan import MAIN
from fedfleet.training.config import TrainingConfig
from fedfleet.training.optim import make_optimizer, reach
from fedfleet.types import Array, Kind, ModelState, ParamSpec, Schema, Update

SCALAR = Schema((ParamSpec("x", (1,), Kind.TRAINABLE),))

# Of the ladder in algorithms.md 7.1.
LADDER = TrainingConfig(lr=0.02)


class WideState(ModelState):
    """A state whose trainable vector is float64."""

    def __post_init__(self) -> None:
        assert self.trainable.dtype == np.float64


def wide(value: float) -> WideState:
    return WideState(SCALAR, np.array([value]), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass
class Quadratic:
    """A worker whose loss is curvature / 2 (x - optimum)^2.

    Args:
        steps: of SGD; 0 solves the local problem exactly.
    """

    curvature: float
    optimum: float
    steps: int = 10
    samples: float = 1.0
    training: TrainingConfig = LADDER
    memory: Memory = field(default_factory=dict)

    def gradient(self, x: Array) -> Array:
        return self.curvature * (x - self.optimum)

    def update(
        self, algorithm: Algorithm, version: ModelState, broadcast: Mapping[str, Array], name: str
    ) -> Update:
        """Train, and keep what the algorithm keeps."""
        received = Received(version, broadcast, self.memory)
        start = algorithm.start_from(received)
        adjust = algorithm.adjuster(received)
        param = nn.Parameter(torch.tensor(start.trainable))

        def differentiate() -> None:
            param.grad = torch.from_numpy(self.gradient(param.detach().numpy()))
            if adjust is not None:
                with torch.no_grad():
                    adjust([param])

        _train(param, differentiate, self.training, self.steps)
        steps = self.steps or 1
        lrs = [self.training.lr] * steps
        work = LocalWork(
            samples=int(self.samples), steps=steps, lr_sum=sum(lrs), reach=reach(self.training, lrs)
        )
        end = WideState(SCALAR, param.detach().numpy().copy(), start.statistics, start.counters)
        trained = Trained(start, end, work, lambda: self.gradient(start.trainable))
        finished = algorithm.finish(received, trained)
        self.memory = finished.memory
        made = header(SCALAR, worker_id=name, weight=self.samples, metrics=dict(finished.metrics))
        return Update(made, finished.sections)


def _train(
    param: nn.Parameter, differentiate: Callable[[], None], training: TrainingConfig, steps: int
) -> None:
    if steps:
        optimizer = make_optimizer([param], training, training.lr)
        for _ in range(steps):
            differentiate()
            optimizer.step()
        return
    slopes = []
    for at in (0.0, 1.0):
        param.data.fill_(at)
        differentiate()
        assert param.grad is not None
        slopes.append(float(param.grad))
    param.data.fill_(slopes[0] / (slopes[0] - slopes[1]))  # the gradient is a straight line


class Fleet:
    """An algorithm's run over quadratics."""

    def __init__(self, algorithm: Algorithm, workers: Sequence[Quadratic], start: float) -> None:
        self.algorithm = algorithm
        self.workers = workers
        self.outcome = Outcome(wide(start), algorithm.start(SCALAR))

    @property
    def x(self) -> float:
        return float(self.outcome.state.trainable[0])

    @property
    def served(self) -> float:
        return float((self.outcome.served or self.outcome.state).trainable[0])

    def round(self, cohort: Sequence[int] | None = None) -> None:
        """One round of all workers, or of those at some places."""
        algorithm, memory = self.algorithm, self.outcome.memory
        places = sorted(range(len(self.workers)) if cohort is None else cohort)
        sent: dict[str, Array] = {
            section.name: section.values for section in algorithm.broadcast(SCALAR, memory)
        }
        base = self.outcome.state
        updates = [
            self.workers[place].update(algorithm, base, sent, f"w{place}") for place in places
        ]
        total = UpdateAccumulator(
            SCALAR,
            policy="average",
            max_updates=len(updates),
            max_weight=max(worker.samples for worker in self.workers),
            extra=algorithm.sections,
        )
        for one in updates:
            algorithm.check_header(one.header)
            total.check(one)
            total.add(one, algorithm.weight(one.header))
        headers = [one.header for one in updates]
        self.outcome = algorithm.step(
            RoundResult(base, {MAIN: total.result()}, headers, memory, len(self.workers))
        )

    def rounds(self, count: int) -> Fleet:
        for _ in range(count):
            self.round()
        return self


def pair(**options: object) -> list[Quadratic]:
    """The two workers of algorithms.md 7.1, whose common optimum is 10 / 11."""
    return [Quadratic(1.0, 0.0, **options), Quadratic(10.0, 1.0, **options)]  # type: ignore[arg-type]  # a table of the fields
