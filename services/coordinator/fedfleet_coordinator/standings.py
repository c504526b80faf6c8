"""What each worker has given to a run, from the run's journal: for those who look at the fleet.

Read on from where the last look ended, so that a look costs what has happened since.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.rounds import events as ev
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.store.protocols import Entry, Journal, RunState
from fedfleet.types import Evaluation

# Rounds whose times the median is of, and evaluations that are kept.
DURATIONS = 15
ACCURACIES = 100


@dataclass(frozen=True)
class Part:
    """One worker's part in a run.

    Args:
        rounds: in which an update of it counted.
        weight_ratio: its share of the weight of all updates that counted, from 0 to 1.
        round_s: seconds from assignment to update, the median of its last rounds; 0 before.
        accuracies: its evaluations of the run's versions by round, the last ones.
        of_rounds: rounds of the run that were committed.
    """

    rounds: int = 0
    weight_ratio: float = 0.0
    round_s: float = 0.0
    accuracies: tuple[tuple[int, float], ...] = ()
    of_rounds: int = 0


@dataclass
class _Counts:
    rounds: int = 0
    weight: float = 0.0
    durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=DURATIONS))
    accuracies: dict[int, float] = field(default_factory=dict)


class Standing:
    """One run's workers, as of the entries that it was given in order.

    Args:
        buffer: updates that make a version of an asynchronous run, the first that are there; None
            where all that came in a round count in it, by their weight.
        freshness: what an update of an asynchronous run counts for, by its staleness.
    """

    def __init__(
        self, buffer: int | None = None, freshness: Callable[[int], float] = lambda _: 1.0
    ) -> None:
        self._buffer = buffer
        self._freshness = freshness
        self._of_rounds = 0
        self._weight = 0.0
        self._workers: defaultdict[str, _Counts] = defaultdict(_Counts)
        # When each worker began; of the round that goes on, who comes after whom, what each gave.
        self._began_s: dict[str, float] = {}
        self._next: dict[str, str] = {}
        self._given: list[tuple[str, float]] = []  # assignments and weights, as they came
        self.last_event_id = 0

    def take(self, entries: Iterable[Entry]) -> None:
        """Go on with the entries that came since."""
        for entry in entries:
            self.last_event_id = entry.event_id
            event = ev.from_fields(entry.kind, entry.at_s, entry.fields)
            if isinstance(event, ev.CohortSelected):
                self._cohort(event)
            elif isinstance(event, ev.UpdateAccepted):
                self._given.append((event.assignment_id, event.weight))
                self._ended(_worker(event.assignment_id), event.at_s, counts=True)
            elif isinstance(event, ev.AssignmentFailed):
                self._ended(_worker(event.assignment_id), event.at_s, counts=False)
            elif isinstance(event, ev.EvaluationReported):
                self._evaluated(entry.round, _worker(event.assignment_id), event.evaluation)
            elif isinstance(event, ev.RoundCommitted):
                self._committed()

    def part(self, worker_id: str) -> Part:
        """One worker's part so far."""
        counts = self._workers.get(worker_id, _NOTHING)
        return Part(
            rounds=counts.rounds,
            weight_ratio=counts.weight / self._weight if self._weight else 0.0,
            round_s=median(counts.durations_s) if counts.durations_s else 0.0,
            accuracies=tuple(sorted(counts.accuracies.items())[-ACCURACIES:]),
            of_rounds=self._of_rounds,
        )

    def _cohort(self, event: ev.CohortSelected) -> None:
        for chain in event.chains:
            self._began_s[chain.workers[0]] = event.at_s
            self._next.update(pairwise(chain.workers))

    def _ended(self, worker_id: str, at_s: float, *, counts: bool) -> None:
        began_s = self._began_s.pop(worker_id, None)
        if counts and began_s is not None:
            self._workers[worker_id].durations_s.append(max(0.0, at_s - began_s))
        if worker_id in self._next:
            self._began_s[self._next.pop(worker_id)] = at_s

    def _evaluated(self, round: int, worker_id: str, evaluation: Mapping[str, object]) -> None:
        found = Evaluation.from_json(evaluation)
        if found.samples:
            accuracies = self._workers[worker_id].accuracies
            accuracies[round] = found.accuracy
            if len(accuracies) > 2 * ACCURACIES:
                for old in sorted(accuracies)[:-ACCURACIES]:
                    del accuracies[old]

    def _committed(self) -> None:
        self._of_rounds += 1
        counted = self._given[: self._buffer]
        for key, weight in counted:
            if self._buffer is not None:
                weight = self._freshness(self._of_rounds - _round(key))
            self._workers[_worker(key)].weight += weight
            self._weight += weight
        for worker_id in {_worker(key) for key, _ in counted}:
            self._workers[worker_id].rounds += 1
        del self._given[: self._buffer]
        self._next.clear()


_NOTHING = _Counts()


class Standings:
    """The standing of the run that is looked at. Blocks; safe from several threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._run_id = ""
        self._standing = Standing()

    def of(self, active: str | None, workers: Iterable[str]) -> dict[str, Part]:
        """The parts of some workers in the active run, or in the last that there was.

        Args:
            active: its id; None where no run is.
        """
        with self._lock:
            run_id = active or self._last()
            if run_id != self._run_id:
                self._run_id, self._standing = run_id, self._new(run_id)
            if run_id:
                after_id = self._standing.last_event_id
                self._standing.take(self._journal.entries(run_id, after_id=after_id))
            return {worker_id: self._standing.part(worker_id) for worker_id in workers}

    def _new(self, run_id: str) -> Standing:
        if not run_id:
            return Standing()
        recipe = parse_recipe(self._journal.run(run_id).recipe)
        algorithm = make_algorithm(recipe.algorithm)
        if algorithm.asynchrony is None:
            return Standing()
        return Standing(recipe.rounds.cohort, algorithm.freshness)

    def _last(self) -> str:
        begun = [run for run in self._journal.runs() if run.state is not RunState.QUEUED]
        return max(begun, key=lambda run: run.updated_at_s).run_id if begun else ""


def _worker(assignment_id: str) -> str:
    return assignment_id.rpartition("/")[2]


def _round(assignment_id: str) -> int:
    """Whose version an assignment started from."""
    return int(assignment_id.split("/")[1])
