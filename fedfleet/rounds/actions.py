"""What the machine asks its driver to do. The driver answers each with an event."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Union


class Work(str, Enum):
    """What an assignment asks of a worker."""

    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectCohort:
    """Draw ``size`` of the candidates; answer ``CohortSelected``.

    Args:
        candidates: in order.
        draw: number of this draw within the round; with the round it names the draw's seed.
    """

    round: int
    candidates: tuple[str, ...]
    size: int
    draw: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SendAssignment:
    """Give a worker its assignment, or give it again after the worker came back.

    Answered by ``UpdateAccepted``, ``EvaluationReported`` or ``AssignmentFailed``.
    """

    assignment_id: str
    worker_id: str
    round: int
    work: Work
    deadline_s: float  # seconds since the epoch


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
    """

    round: int
    assignment_ids: tuple[str, ...]
    evaluate: bool


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
