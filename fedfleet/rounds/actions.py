"""What the machine asks its driver to do. The driver answers each with an event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Union

from fedfleet.algorithms.plan import MAIN


class Work(str, Enum):
    """What an assignment asks of a worker."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    PROBE = "probe"  # the version's loss on training data, before a cohort is drawn
    QUERY = "query"  # the running statistics of what a round came to, before it is published


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectCohort:
    """Draw ``size`` of the candidates; answer ``CohortSelected``, or ``ProbesSelected`` first.

    Args:
        candidates: in order.
        draw: number of this draw within the round; with the round it names the draw's seed.
        losses: by worker, what came of the probes; None where nobody was asked.
    """

    round: int
    candidates: tuple[str, ...]
    size: int
    draw: int
    losses: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SendAssignment:
    """Give a worker its assignment, or give it again after the worker came back.

    Answered by ``UpdateAccepted``, ``EvaluationReported``, ``ProbeReported``,
    ``StatisticsReported`` or ``AssignmentFailed``.

    Args:
        deadline_s: seconds since the epoch.
        after: assignments of the same chain whose updates this one starts from, in their order;
            empty for one that starts from its lane's model.
        lane: of its chain.
        again: train assignments that the worker was given from the same version before, in an
            asynchronous run.
    """

    assignment_id: str
    worker_id: str
    round: int
    work: Work
    deadline_s: float
    after: tuple[str, ...] = ()
    lane: str = MAIN
    again: int = 0

    @property
    def seed_labels(self) -> tuple[str | int, ...]:
        """What derives its seed from the run's: another one each time that it is given anew."""
        labels = (self.work.value, self.round, self.worker_id)
        return (*labels, self.again) if self.again else labels


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelAssignment:
    """Tell a worker that its assignment is not wanted any more."""

    assignment_id: str
    worker_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WakeAt:
    """Answer ``DeadlinePassed`` at this time, unless a later ``WakeAt`` replaced this one."""

    at_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldUpdate:
    """Add a journalled update to the round's sum. Needs no answer."""

    assignment_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """Make the next version of the folded updates, evaluate it if asked, publish it.

    Answered by ``RoundCommitted`` or ``RunBroken``.

    Args:
        queries: assignments whose statistics the version takes; none leaves it the updates' own.
    """

    round: int
    assignment_ids: tuple[str, ...]
    evaluate: bool
    queries: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CloseRound:
    """The round is over: forget its updates. Needs no answer."""

    round: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishRun:
    """The run is over. ``outcome`` is completed, failed or stopped. Needs no answer."""

    outcome: str
    code: str = ""
    reason: str = ""


Action = Union[
    SelectCohort,
    SendAssignment,
    CancelAssignment,
    WakeAt,
    FoldUpdate,
    Aggregate,
    CloseRound,
    FinishRun,
]
