"""What a driver asks of an engine, and what it gets back. No I/O, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Union

from fedfleet.algorithms.base import Memory
from fedfleet.rounds.levels import FULL
from fedfleet.rounds.static_norm import Measured
from fedfleet.types import Evaluation, ModelState, Section, Update


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainJob:
    """One train assignment, complete in itself: jobs of a round may start from different states.

    Args:
        seed: of the assignment, in [0, 2^63).
        base: where this worker starts. Jobs with the same start share the object, and an engine
            moves it once.
        base_digest: what the update will name as its base.
        memory: what this worker kept, the algorithm's part and the codec's.
        level: the width of the base.
        max_steps: with which the work ends though there is more; None for no end before its own.
    """

    assignment_id: str
    worker_id: str
    round: int
    seed: int
    base: ModelState
    base_digest: str
    broadcast: tuple[Section, ...]
    memory: Memory
    level: str = FULL
    max_steps: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluateJob:
    """One evaluate assignment, or a probe.

    Args:
        base: the version as the worker has it.
        memory: as for ``TrainJob``.
        probe_seed: of a probe, which evaluates on training examples; None for no probe.
        level: as for ``TrainJob``.
    """

    assignment_id: str
    worker_id: str
    base: ModelState
    memory: Memory
    probe_seed: int | None = None
    level: str = FULL


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryJob:
    """Measure the running statistics of what a round came to.

    Args:
        base: it, at the whole width.
    """

    assignment_id: str
    worker_id: str
    base: ModelState
    memory: Memory
    level: str = FULL


Job = Union[TrainJob, EvaluateJob, QueryJob]


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """What a train job came to.

    Args:
        update: as the coordinator decodes it.
        memory: what the worker keeps if the update counts.
        upload_bytes: of the payload.
        examples: how many went through training, each once per epoch.
    """

    assignment_id: str
    update: Update
    memory: Memory
    upload_bytes: int
    examples: int

    def without_values(self) -> Trained:
        """The header and the numbers only."""
        return replace(self, update=Update(self.update.header, ()), memory={})


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluate job came to."""

    assignment_id: str
    evaluation: Evaluation


@dataclass(frozen=True, eq=False, kw_only=True)
class Queried:
    """What a query came to."""

    assignment_id: str
    measured: Measured


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A job that could not be carried out: the error's code and message."""

    assignment_id: str
    code: str
    reason: str


Result = Union[Trained, Evaluated, Queried, Failed]


class Engine(Protocol):
    """Carries out jobs. The same jobs give bit-identical results on every engine, given the same
    machine and number of threads per training.
    """

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the result of each job, in the order of the jobs.

        Lazy: who stops asking does not want the rest. Jobs are taken as there is room for them, so
        that not all of their memories need be loaded at once. A job that fails yields ``Failed``;
        so does one whose process was lost.
        """

    def close(self) -> None:
        """Give back processes and memory; no call comes after it."""
