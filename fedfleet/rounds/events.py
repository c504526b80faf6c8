"""What can happen to a run. Everything the machine knows comes in as one of these values.

Events that are marked durable go into the journal before the machine sees them; replaying them
gives the same machine. ``at_s`` is in seconds since the epoch on the coordinator's clock (virtual
seconds in a simulation).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Union

from fedfleet.algorithms.plan import MAIN, Chain, Plan


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
    """The answer to ``SelectCohort``. Durable. Flat, since it is journalled as JSON.

    Args:
        workers: of all chains, one chain after the other.
        chain_lengths: how many workers each chain has; empty where each worker is a chain.
        lanes: the lane of each chain; empty where all are on the run's own.
        updates: how many updates beyond those that came before complete the round; 0 leaves it at
            the recipe's cohort.
        corrections: of each worker, what makes up for its chance to be drawn; empty where all are
            1.
        deadline_s: seconds until the deadline; 0 leaves it at the recipe's. In here, so that a
            replay ends its wait when the machine did.
    """

    at_s: float
    workers: tuple[str, ...]
    chain_lengths: tuple[int, ...] = ()
    lanes: tuple[str, ...] = ()
    updates: int = 0
    corrections: tuple[float, ...] = ()
    deadline_s: float = 0.0

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The workers as they were planned."""
        lengths = self.chain_lengths or (1,) * len(self.workers)
        lanes = self.lanes or (MAIN,) * len(lengths)
        ends = accumulate(lengths)
        return tuple(
            Chain(self.workers[end - length : end], lane)
            for end, length, lane in zip(ends, lengths, lanes, strict=True)
        )


def cohort_selected(
    plan: Plan,
    at_s: float,
    corrections: Mapping[str, float] | None = None,
    deadline_s: float = 0.0,
) -> CohortSelected:
    """A plan as an event.

    Args:
        corrections: by worker, of those whose correction is not 1.
        deadline_s: of the round, from its assignments; 0 leaves it at the recipe's.
    """
    factors = tuple((corrections or {}).get(worker, 1.0) for worker in plan.workers)
    lengths = tuple(len(chain.workers) for chain in plan.chains)
    lanes = tuple(chain.lane for chain in plan.chains)
    return CohortSelected(
        at_s=at_s,
        workers=plan.workers,
        chain_lengths=lengths if max(lengths, default=1) > 1 else (),
        lanes=lanes if any(lanes) else (),
        updates=plan.updates or 0,
        corrections=factors if set(factors) - {1.0} else (),
        deadline_s=deadline_s,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbesSelected:
    """The first answer to a ``SelectCohort`` that needs losses: who is asked for them. Durable."""

    at_s: float
    workers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReported:
    """A worker says what it loses on the version, in nats per example. Durable.

    Args:
        samples: examples that it was asked about; 0 in journals that do not say.
    """

    at_s: float
    assignment_id: str
    loss: float
    samples: int = 0


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
class StatisticsReported:
    """A worker measured what a query asked for. Durable.

    Args:
        samples: examples behind the statistics.
        blobs: the digest of the statistics, where they are stored.
    """

    at_s: float
    assignment_id: str
    samples: int
    blobs: tuple[str, ...] = ()


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

    Args:
        resting: how many more are connected and would take assignments of the run if they did not
            rest on their device; 0 in journals that do not say.
    """

    at_s: float
    workers: tuple[str, ...]
    resting: int = 0


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
    ProbesSelected,
    ProbeReported,
    CohortSelected,
    UpdateAccepted,
    EvaluationReported,
    StatisticsReported,
    AssignmentFailed,
    DeadlinePassed,
    RoundCommitted,
    RunBroken,
    StopRequested,
]

DURABLE: tuple[type, ...] = (
    RunStarted,
    RunResumed,
    ProbesSelected,
    ProbeReported,
    CohortSelected,
    UpdateAccepted,
    EvaluationReported,
    StatisticsReported,
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
