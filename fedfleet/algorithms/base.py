"""What an algorithm is: a worker half and a coordinator half, both without I/O.

Both drivers of a round (the coordinator service and the simulator) call the same halves, so an
algorithm that is right in simulation is the one that is deployed. The halves keep nothing in
attributes: what must live from round to round is a ``Memory`` that the driver stores (the worker's
on the device, the coordinator's in the journal) and hands back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fedfleet.aggregation.accumulator import Aggregate
from fedfleet.types import Array, ModelState, Schema, Section, UpdateHeader

if TYPE_CHECKING:
    from torch import Tensor

# Named arrays that an algorithm keeps between rounds. Not to be mutated.
Memory = Mapping[str, Array]

# Called after each backward pass and before clipping and the optimizer's step, with the model's
# trainable parameters in schema order; changes their gradients in place.
GradientAdjuster = Callable[[Sequence["Tensor"]], None]


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """What local training did.

    Args:
        samples: training examples that the worker holds for this run (the weight by samples).
        steps: optimizer steps taken.
        lr_sum: sum of the learning rate over the steps.
    """

    samples: int
    steps: int
    lr_sum: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class WorkerHalf(Protocol):
    """What an algorithm does on the device."""

    def adjuster(
        self, received: ModelState, broadcast: Sequence[Section], memory: Memory
    ) -> GradientAdjuster | None:
        """The change to each step's gradient, or None."""

    def finish(
        self,
        received: ModelState,
        trained: ModelState,
        work: LocalWork,
        broadcast: Sequence[Section],
        memory: Memory,
    ) -> tuple[tuple[Section, ...], Memory]:
        """The update's sections and the memory to keep on this device."""


class CoordinatorHalf(Protocol):
    """What an algorithm does where updates meet."""

    def start(self, schema: Schema) -> Memory:
        """The memory before the first round."""

    def broadcast(self, schema: Schema, memory: Memory) -> tuple[Section, ...]:
        """What is sent along with the version; empty for most."""

    def weight(self, header: UpdateHeader) -> float:
        """How much an update counts in the weighted mean, > 0."""

    def step(
        self, base: ModelState, aggregate: Aggregate, memory: Memory
    ) -> tuple[ModelState, Memory]:
        """The next version's state, and the memory to keep."""


class Algorithm(WorkerHalf, CoordinatorHalf, Protocol):
    """Both halves."""
