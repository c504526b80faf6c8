"""What an algorithm is: a worker half and a coordinator half, both without I/O.

Both drivers of a round (the coordinator service and the simulator) call the same halves, so an
algorithm that is right in simulation is the one that is deployed. The halves keep nothing in
attributes: what must live from round to round is a ``Memory`` that the driver stores (the worker's
on the device, the coordinator's in the journal) and hands back.

Legend: P = trainable elements of the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from fedfleet.aggregation.accumulator import Aggregate
from fedfleet.algorithms.plan import MAIN, Chain, Plan, PlanRequest
from fedfleet.types import Array, FloatVector, Kind, ModelState, Schema, Section, UpdateHeader

if TYPE_CHECKING:
    from torch import Tensor

# Named arrays that an algorithm keeps between rounds. Not to be mutated.
Memory = Mapping[str, Array]

# Called after each backward pass and before clipping and the optimizer's step, with the model's
# trainable parameters in schema order; changes their gradients in place.
GradientAdjuster = Callable[[Sequence["Tensor"]], None]

DELTA = Kind.TRAINABLE.value
# Metrics of these names are for the coordinator half alone: no part of what is said of a version.
OWN_METRIC = "algorithm."


@dataclass(frozen=True, eq=False)
class Received:
    """What an assignment finds on the device.

    Args:
        version: what the coordinator sent.
        broadcast: what came along with it, by section name, shape (P,).
        memory: what this half kept from the last round that counted; empty at first.
        round: counted from 1.
    """

    version: ModelState
    broadcast: Mapping[str, FloatVector]
    memory: Memory
    round: int = 0


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """What local training did.

    Args:
        samples: training examples that the worker holds for this run (the weight by samples).
        steps: optimizer steps taken.
        lr_sum: sum of the learning rate over the steps.
        reach: how far the steps carry along constant gradients: the 1-norm of FedNova's vector a,
            times the learning rate (Wang 2020, arXiv 2007.07481, equation 5). lr_sum without
            momentum, more with it.
        epoch_losses: mean training loss of each epoch, in nats.
    """

    samples: int
    steps: int
    lr_sum: float
    reach: float
    epoch_losses: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trained:
    """What training came to.

    Args:
        start: the state that training started from, what ``start_from`` gave.
        state: the state that it ended with.
        gradient: computes the mean gradient of the loss over the training examples at ``start``,
            shape (P,): one more pass over the data.
        confidences: computes the mean of the trained model's class probabilities over the run's
            public exemplars, shape (classes,); there for an algorithm with ``exemplars``.
    """

    start: ModelState
    state: ModelState
    work: LocalWork
    gradient: Callable[[], FloatVector]
    confidences: Callable[[], FloatVector] | None = None

    @property
    def delta(self) -> FloatVector:
        """Trained minus started from, shape (P,)."""
        return self.state.trainable - self.start.trainable


@dataclass(frozen=True, eq=False)
class Finished:
    """What a worker makes of its training.

    Args:
        memory: to keep on this device; becomes the next round's if the update counts.
        metrics: numbers for the coordinator half, their names beginning with ``OWN_METRIC``, beside
            those that training reports.
    """

    sections: tuple[Section, ...]
    memory: Memory = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asynchrony:
    """How an asynchronous run goes: no worker waits for another.

    Args:
        concurrency: workers that train at any time; None is all that are connected.
        max_staleness: versions that may be made while a worker trains; None is any number.
    """

    concurrency: int | None = None
    max_staleness: int | None = None


def no_start(round: int) -> ModelState:
    """Stands for the versions of earlier rounds in a run whose rounds wait for their updates."""
    raise AssertionError(f"round {round} is over, and no update started from it")


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What a round's updates came to.

    Args:
        base: the state that the round started from, of the run's own lane.
        aggregates: by lane; only lanes that had an update are there.
        headers: of the updates in the aggregates, ordered by worker.
        memory: the coordinator half's.
        workers: how many workers hold data for the run, connected or not.
        lanes: the lane of each worker that was not on the run's own.
        round: counted from 1; in an asynchronous run a header may name an earlier one.
        start_of: the state that a round started from, of those that a header names.
    """

    base: ModelState
    aggregates: Mapping[str, Aggregate]
    headers: Sequence[UpdateHeader]
    memory: Memory
    workers: int
    lanes: Mapping[str, str] = field(default_factory=dict)
    round: int = 0
    start_of: Callable[[int], ModelState] = no_start

    @property
    def aggregate(self) -> Aggregate:
        """The run's own lane's, which is the only one for most algorithms."""
        return self.aggregates[MAIN]

    def headers_of(self, lane: str) -> list[UpdateHeader]:
        """Those of one lane."""
        return [h for h in self.headers if self.lanes.get(h.worker_id, MAIN) == lane]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a round leads to.

    Args:
        state: what the next round starts from.
        memory: what the coordinator half keeps.
        served: what is published as the round's version, where that is another state.
    """

    state: ModelState
    memory: Memory = field(default_factory=dict)
    served: ModelState | None = None


class TrainingSettings(Protocol):
    """What an algorithm may ask of the recipe's local training."""

    @property
    def optimizer(self) -> str: ...

    @property
    def epochs(self) -> int: ...

    @property
    def batch_size(self) -> int: ...


class Algorithm(ABC):
    """Both halves, with what most algorithms do; a subclass writes what is its own.

    Attributes:
        sections: names of the trainable sections that an update has beside the delta.
        weighs_together: whether the weights depend on all updates of the round; they are then kept
            on disk until the round closes, and ``weights`` is asked instead of ``weight``.
        needs_workers: whether ``RoundResult.workers`` is used, so that the recipe must say it.
        draws_workers: whether ``plan`` draws among workers; not so, a selection that looks at each
            has nothing to look at.
        takes_levels: whether workers may train narrower models than the run's: nothing but the
            built-in sections is sent, and lanes are not used for anything else.
        needs_levels: whether the recipe must say which widths there are.
    """

    sections: ClassVar[tuple[str, ...]] = ()
    weighs_together: ClassVar[bool] = False
    needs_workers: ClassVar[bool] = False
    draws_workers: ClassVar[bool] = True
    takes_levels: ClassVar[bool] = False
    needs_levels: ClassVar[bool] = False

    def check_training(self, training: TrainingSettings) -> None:  # noqa: B027 - most allow all
        """Raises ValueError: the algorithm is not defined for the recipe's local training."""

    @property
    def exemplars(self) -> int:
        """Examples per class of the data set's test split that ``Trained.confidences`` needs.

        Every worker must be able to load them; 0 for an algorithm that uses none.
        """
        return 0

    def check_cohort(self, cohort: int, workers: int | None) -> None:  # noqa: B027 - as above
        """Raises ValueError: the algorithm cannot work with cohorts of this size.

        Args:
            workers: how many hold data for the run; None where the recipe does not say it.
        """

    # Worker half

    def epochs(self, round: int, epochs: int) -> int:
        """Local epochs in a round, given the recipe's."""
        return epochs

    def takes_partial(self, round: int) -> bool:
        """Whether an update of fewer steps than were planned means the same in this round.

        It does where what an update says of its training is per step, or is a delta alone.
        """
        return True

    def start_from(self, received: Received) -> ModelState:
        """The state that this worker trains from, and that it evaluates."""
        return received.version

    def adjuster(self, received: Received) -> GradientAdjuster | None:
        """The change to each step's gradient, or None."""
        return None

    def finish(self, received: Received, trained: Trained) -> Finished:
        """The update's sections and the memory to keep on this device."""
        return Finished(self.built_in(trained), received.memory)

    def built_in(
        self, trained: Trained, delta_P: FloatVector | None = None
    ) -> tuple[Section, Section, Section]:
        """The sections that every update has: the delta, and the other kinds as values."""
        delta_P = trained.delta if delta_P is None else delta_P
        state = trained.state
        return (
            Section(DELTA, Kind.TRAINABLE, delta_P),
            Section(Kind.STATISTIC.value, Kind.STATISTIC, state.statistics),
            Section(Kind.COUNTER.value, Kind.COUNTER, state.counters),
        )

    # Coordinator half

    def check_header(self, header: UpdateHeader) -> None:  # noqa: B027 - as above
        """Check what this half will read of an update before it is admitted.

        Raises:
            UpdateInvalid: a number is missing, or none that a worker's half sends.
        """

    def start(self, schema: Schema) -> Memory:
        """The memory before the first round."""
        return {}

    def plan(self, request: PlanRequest) -> Plan:
        """Who trains in a round, and from what."""
        drawn = request.draw(request.candidates, request.size)

        def lane(worker_id: str) -> str:
            return self.lane_of(worker_id, request.memory) or request.level_lane(worker_id)

        return Plan(tuple(Chain((worker_id,), lane(worker_id)) for worker_id in drawn))

    def lane_of(self, worker_id: str, memory: Memory) -> str:
        """The lane whose model is a worker's, for its training and its evaluations."""
        return MAIN

    def lane_state(self, lane: str, base: ModelState, memory: Memory) -> ModelState:
        """The state of a lane other than the run's own.

        Args:
            base: the run's own lane's.
        """
        return base

    def broadcast(self, schema: Schema, memory: Memory) -> tuple[Section, ...]:
        """What is sent along with the version; empty for most."""
        return ()

    def weight(self, header: UpdateHeader) -> float:
        """How much an update counts in the weighted mean, > 0."""
        return header.weight

    @property
    def largest_weight(self) -> float | None:
        """The most that ``weight`` gives, where that does not depend on the samples.

        The exact sum then resolves weights of 1 as well as it does large ones.
        """
        return None

    @property
    def asynchrony(self) -> Asynchrony | None:
        """How the run goes where no worker waits for another; None where rounds wait."""
        return None

    def freshness(self, staleness: int) -> float:
        """What ``weight`` is multiplied with for an update of an earlier version, in (0, 1].

        Args:
            staleness: versions that were made while its worker trained; 0 where rounds wait.
        """
        return 1.0

    @property
    def corrects_chances(self) -> bool:
        """Whether ``weight`` is multiplied by what makes up for unequal chances of selection."""
        return False

    def weights(self, headers: Sequence[UpdateHeader], memory: Memory) -> Sequence[float]:
        """How much each update of a round counts, > 0, where they are weighed together."""
        return [self.weight(header) for header in headers]

    @abstractmethod
    def step(self, result: RoundResult) -> Outcome:
        """What the round leads to."""
