"""What can happen to a run. Everything the machine knows comes in as one of these values.

Events that are marked durable go into the journal before the machine sees them; replaying them
gives the same machine. ``at_s`` is in seconds since the epoch on the coordinator's clock (virtual
seconds in a simulation).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Union


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """The run left the queue. Durable."""

    at_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResumed:
    """The coordinator came back; the deadline starts anew. Durable."""

    at_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetChanged:
    """The set of workers that can take assignments now. Not durable: it is told anew."""

    at_s: float
    workers: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortSelected:
    """The answer to ``SelectCohort``. Durable."""

    at_s: float
    workers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateAccepted:
    """An update is in the journal. Durable (with the update, in one transaction)."""

    at_s: float
    assignment_id: str
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReported:
    """A worker evaluated the version. Durable. ``evaluation`` is an Evaluation as JSON."""

    at_s: float
    assignment_id: str
    evaluation: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class AssignmentFailed:
    """A worker could not carry an assignment out, or its update was refused. Durable."""

    at_s: float
    assignment_id: str
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadlinePassed:
    """The time that the last ``WakeAt`` named has come. Durable.

    Carries the workers that are there, so that a replay decides as the machine did.
    """

    at_s: float
    workers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCommitted:
    """The round's version is in the registry. Durable (with the version, in one transaction).

    Carries the workers that are there, so that a replay decides as the machine did.
    """

    at_s: float
    version: int
    digest: str
    workers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunBroken:
    """The driver could not carry out an action; the run cannot go on. Not durable."""

    at_s: float
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequested:
    """An operator wants the run to end. Durable."""

    at_s: float


Event = Union[
    RunStarted,
    RunResumed,
    FleetChanged,
    CohortSelected,
    UpdateAccepted,
    EvaluationReported,
    AssignmentFailed,
    DeadlinePassed,
    RoundCommitted,
    RunBroken,
    StopRequested,
]

DURABLE: tuple[type, ...] = (
    RunStarted,
    RunResumed,
    CohortSelected,
    UpdateAccepted,
    EvaluationReported,
    AssignmentFailed,
    DeadlinePassed,
    RoundCommitted,
    StopRequested,
)


def _kind(cls: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


KINDS: Mapping[str, Any] = {_kind(cls): cls for cls in DURABLE}


def kind_of(event: Event) -> str:
    """The journal's name of an event, for example ``update_accepted``."""
    return _kind(type(event))


def to_fields(event: Event) -> dict[str, Any]:
    """An event's fields but the time, as a JSON object."""
    values = {item.name: getattr(event, item.name) for item in fields(event)}
    values.pop("at_s")
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def from_fields(kind: str, at_s: float, values: Mapping[str, Any]) -> Event | None:
    """The event of a journal entry; None for an entry that is not the machine's.

    Fields that this release does not know (a driver's remarks) are left out.
    """
    cls = KINDS.get(kind)
    if cls is None:
        return None
    names = {item.name for item in fields(cls)} - {"at_s"}
    known = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in names}
    event: Event = cls(at_s=at_s, **known)
    return event
