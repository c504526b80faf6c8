"""The round state machine: events in, actions out; no I/O, no clock, no randomness.

Life of a round::

    SELECTING --CohortSelected--> TRAINING --enough updates--> COMMITTING --RoundCommitted-->
        ^   ^                        |                                            |
        |   '--deadline, no quorum---'        evaluation due: EVALUATING <--------'
        '------------------ CloseRound ------------------'   else CloseRound

A round keeps the updates that it accepted through every attempt: an attempt that misses its
quorum draws replacements only for what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action, Work
from fedfleet.rounds.config import RoundsConfig
from fedfleet.training.config import EvaluationConfig


class Phase(str, Enum):
    """What the machine waits for."""

    QUEUED = "queued"  # RunStarted
    SELECTING = "selecting"  # enough workers, then CohortSelected
    TRAINING = "training"  # updates
    COMMITTING = "committing"  # RoundCommitted
    EVALUATING = "evaluating"  # evaluations
    FINISHED = "finished"  # nothing


class Status(str, Enum):
    """Where an assignment stands; only an open one can change."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Slot:
    """One assignment of the current round."""

    assignment_id: str
    worker_id: str
    work: Work
    status: Status = Status.OPEN


class RoundMachine:
    """Drives one run from its first round to its end.

    Args:
        run_id: prefix of the assignment ids.
        first_round: the round to begin with, counted from 1 (after a restart: the one after the
            last that was closed).

    Attributes:
        round: the current round.
        attempt: deadlines of this round that passed without a quorum, plus one.
        slots: every assignment of the round by id; ids are never reused within a run.
        deadline_s: when the current wait ends; meaningful in SELECTING, TRAINING, EVALUATING.
        draws: cohorts drawn in this round; part of the assignment ids and of the draw's seed.
        awaiting_cohort: SelectCohort was asked and not answered yet.
    """

    def __init__(
        self, run_id: str, rounds: RoundsConfig, evaluation: EvaluationConfig, first_round: int = 1
    ) -> None:
        self._run_id = run_id
        self._rounds = rounds
        self._evaluation = evaluation
        self.phase = Phase.QUEUED
        self.round = first_round
        self.attempt = 1
        self.slots: dict[str, Slot] = {}
        self.deadline_s = 0.0
        self.draws = 0
        self.awaiting_cohort = False
        self.finish: act.FinishRun | None = None
        self._available: frozenset[str] = frozenset()
        self._last_failure = ""

    # What drivers may ask

    @property
    def cohort(self) -> tuple[str, ...]:
        """Workers that train in this round, in order of their assignments."""
        return tuple(s.worker_id for s in self.slots.values() if s.work is Work.TRAIN)

    def is_open(self, assignment_id: str, work: Work | None = None) -> bool:
        """Whether a result for this assignment (of this kind of work) is still wanted."""
        slot = self.slots.get(assignment_id)
        if slot is None or slot.status is not Status.OPEN:
            return False
        return work is None or slot.work is work

    def done(self, work: Work) -> tuple[str, ...]:
        """Finished assignments of one kind, in order of their ids."""
        return tuple(sorted(s.assignment_id for s in self._with(work, Status.DONE)))

    # The machine

    def handle(self, event: ev.Event) -> list[Action]:
        """Take one event and say what is to be done now.

        Events that come too late (a result for a closed assignment, an alarm of an earlier wait)
        change nothing.
        """
        if self.phase is Phase.FINISHED:
            return []
        if isinstance(event, ev.RunStarted):
            return self._begin(event.at_s) if self.phase is Phase.QUEUED else []
        if isinstance(event, ev.RunResumed):
            self._available = frozenset()
            return self._resume(event.at_s)
        if isinstance(event, ev.FleetChanged):
            return self._fleet_changed(event)
        if isinstance(event, ev.CohortSelected):
            return self._cohort_selected(event)
        if isinstance(event, ev.UpdateAccepted):
            return self._update_accepted(event)
        if isinstance(event, ev.EvaluationReported):
            return self._settle(event.assignment_id, Work.EVALUATE, Status.DONE, event.at_s)
        if isinstance(event, ev.AssignmentFailed):
            return self._assignment_failed(event)
        if isinstance(event, ev.DeadlinePassed):
            return self._deadline_passed(event)
        if isinstance(event, ev.RoundCommitted):
            return self._committed(event) if self.phase is Phase.COMMITTING else []
        if isinstance(event, ev.RunBroken):
            return self._finish("failed", event.code, event.reason)
        return self._finish("stopped", "", "stopped by an operator")

    def validate(self) -> None:
        """Assert the invariants; tests call it after every event."""
        trained = self._with(Work.TRAIN, Status.DONE)
        assert len({s.worker_id for s in trained}) == len(trained), "a worker counts twice"
        assert len(trained) <= self._rounds.cohort, "more updates than the cohort"
        assert 1 <= self.round <= self._rounds.rounds
        assert 1 <= self.attempt <= self._rounds.attempts
        if self.phase is Phase.TRAINING:
            assert self._with(Work.TRAIN, Status.OPEN), "training without anybody at work"
        if self.phase is Phase.EVALUATING:
            assert self._with(Work.EVALUATE, Status.OPEN), "evaluating without anybody at work"
        if self.phase in (Phase.COMMITTING, Phase.SELECTING, Phase.FINISHED):
            assert not [s for s in self.slots.values() if s.status is Status.OPEN]
        if self.phase in (Phase.COMMITTING, Phase.EVALUATING):
            assert len(trained) >= self._rounds.needed, "committed below the quorum"

    # Selecting

    def _begin(self, at_s: float) -> list[Action]:
        self.phase = Phase.SELECTING
        return [*self._extend(at_s), *self._try_select(self._rounds.awaited)]

    def _extend(self, at_s: float) -> list[Action]:
        self.deadline_s = at_s + self._rounds.deadline_s
        return [act.WakeAt(at_s=self.deadline_s)]

    def _candidates(self, awaited: int) -> tuple[str, ...]:
        """Workers to draw from if enough are there, else none; those that delivered count."""
        trained = {s.worker_id for s in self._with(Work.TRAIN, Status.DONE)}
        candidates = self._available - trained
        return tuple(sorted(candidates)) if len(candidates) + len(trained) >= awaited else ()

    def _try_select(self, awaited: int) -> list[Action]:
        """Ask for a cohort if enough workers are there and it was not asked for already."""
        candidates = self._candidates(awaited)
        if self.awaiting_cohort or not candidates:
            return []
        self.awaiting_cohort = True
        missing = self._rounds.cohort - len(self._with(Work.TRAIN, Status.DONE))
        # Whoever failed or was late in this round is asked again only when others do not suffice.
        tried = {s.worker_id for s in self.slots.values() if s.status is not Status.DONE}
        fresh = tuple(worker for worker in candidates if worker not in tried)
        if len(fresh) >= missing:
            candidates = fresh
        return [
            act.SelectCohort(
                round=self.round,
                candidates=candidates,
                size=min(missing + self._rounds.over_select, len(candidates)),
                draw=self.draws + 1,
            )
        ]

    def _cohort_selected(self, event: ev.CohortSelected) -> list[Action]:
        if self.phase is not Phase.SELECTING:
            return []
        assert event.workers, "SelectCohort is never asked without candidates"
        self.awaiting_cohort = False
        self.draws += 1
        self.phase = Phase.TRAINING
        alarm = self._extend(event.at_s)
        return [*alarm, *self._assign(event.workers, Work.TRAIN)]

    def _assign(self, workers: tuple[str, ...], work: Work) -> list[Action]:
        for worker_id in workers:
            key = f"{self._run_id}/{self.round}/{self.draws}/{work.value}/{worker_id}"
            self.slots[key] = Slot(key, worker_id, work)
        return [self._send(s) for s in self._with(work, Status.OPEN)]

    def _send(self, slot: Slot) -> Action:
        return act.SendAssignment(
            assignment_id=slot.assignment_id,
            worker_id=slot.worker_id,
            round=self.round,
            work=slot.work,
            deadline_s=self.deadline_s,
        )

    # Collecting

    def _update_accepted(self, event: ev.UpdateAccepted) -> list[Action]:
        # An update for an evaluate assignment must not reach the sum.
        if not self.is_open(event.assignment_id, Work.TRAIN):
            return []
        fold = act.FoldUpdate(assignment_id=event.assignment_id)
        return [fold, *self._settle(event.assignment_id, Work.TRAIN, Status.DONE, event.at_s)]

    def _assignment_failed(self, event: ev.AssignmentFailed) -> list[Action]:
        slot = self.slots.get(event.assignment_id)
        if slot is None or slot.status is not Status.OPEN:
            return []
        self._last_failure = f"{slot.worker_id}: {event.code}: {event.reason}"
        return self._settle(event.assignment_id, slot.work, Status.FAILED, event.at_s)

    def _settle(self, assignment_id: str, work: Work, status: Status, at_s: float) -> list[Action]:
        slot = self.slots.get(assignment_id)
        if slot is None or slot.work is not work or slot.status is not Status.OPEN:
            return []
        self.slots[assignment_id] = replace(slot, status=status)
        waiting = bool(self._with(work, Status.OPEN))
        if work is Work.EVALUATE:
            return [] if waiting else self._close(at_s)
        if len(self._with(Work.TRAIN, Status.DONE)) >= self._rounds.cohort:
            return self._aggregate()
        return [] if waiting else self._attempt_over(at_s)

    def _deadline_passed(self, event: ev.DeadlinePassed) -> list[Action]:
        at_s = event.at_s
        if at_s < self.deadline_s:
            # Of an earlier wait; or the clock was set back, and nothing else would wake this.
            return [act.WakeAt(at_s=self.deadline_s)]
        self._available = frozenset(event.workers)
        if self.phase is Phase.SELECTING:
            # Decided by what the event carries alone: whether a cohort was asked for already is
            # not known to a replay, which is not told of the fleet.
            if self._candidates(self._rounds.needed):
                return self._try_select(self._rounds.needed)
            return self._attempt_over(at_s)
        if self.phase is Phase.TRAINING:
            return [*self._expire("the round's deadline passed"), *self._attempt_over(at_s)]
        if self.phase is Phase.EVALUATING:
            return [*self._expire("the round's deadline passed"), *self._close(at_s)]
        return []

    def _attempt_over(self, at_s: float) -> list[Action]:
        """Nobody is at work any more: close with a quorum, else try again, else give up."""
        updates = len(self._with(Work.TRAIN, Status.DONE))
        if updates >= self._rounds.needed:
            return self._aggregate()
        if self.attempt >= self._rounds.attempts:
            last = f"; last failure: {self._last_failure}" if self._last_failure else ""
            return self._finish(
                "failed",
                "QUORUM_NOT_MET",
                f"round {self.round}: {updates} of {self._rounds.needed} updates and "
                f"{len(self._available)} workers connected after {self.attempt} attempts{last}",
            )
        self.attempt += 1
        self.phase = Phase.SELECTING
        return [*self._extend(at_s), *self._try_select(self._rounds.awaited)]

    def _expire(self, reason: str) -> list[Action]:
        """Close every open assignment."""
        late = [s for s in self.slots.values() if s.status is Status.OPEN]
        for slot in late:
            self.slots[slot.assignment_id] = replace(slot, status=Status.EXPIRED)
        return [
            act.CancelAssignment(
                assignment_id=s.assignment_id, worker_id=s.worker_id, reason=reason
            )
            for s in late
        ]

    # Closing

    def _aggregate(self) -> list[Action]:
        cancelled = self._expire("the round has the updates that it needs")
        self.phase = Phase.COMMITTING
        return [*cancelled, self._aggregate_action()]

    def _aggregate_action(self) -> Action:
        return act.Aggregate(
            round=self.round,
            assignment_ids=self.done(Work.TRAIN),
            evaluate=self._evaluation.due(self.round, self._rounds.rounds),
        )

    def _committed(self, event: ev.RoundCommitted) -> list[Action]:
        self._available = frozenset(event.workers)
        workers = self._evaluators()
        if not workers:
            return self._close(event.at_s)
        self.phase = Phase.EVALUATING
        return [*self._extend(event.at_s), *self._assign(workers, Work.EVALUATE)]

    def _evaluators(self) -> tuple[str, ...]:
        if not self._evaluation.due(self.round, self._rounds.rounds):
            return ()
        if self._evaluation.workers == "all":
            return tuple(sorted(self._available))
        if self._evaluation.workers == "cohort":
            trained = {s.worker_id for s in self._with(Work.TRAIN, Status.DONE)}
            return tuple(sorted(trained & self._available))
        return ()

    def _close(self, at_s: float) -> list[Action]:
        closed = act.CloseRound(round=self.round)
        if self.round == self._rounds.rounds:
            return [closed, *self._finish("completed")]
        self.round += 1
        self.attempt = 1
        self.draws = 0
        self.slots = {}
        self._last_failure = ""
        return [closed, *self._begin(at_s)]

    def _finish(self, outcome: str, code: str = "", reason: str = "") -> list[Action]:
        cancelled = self._expire("the run is over")
        self.phase = Phase.FINISHED
        self.finish = act.FinishRun(outcome=outcome, code=code, reason=reason)
        return [*cancelled, self.finish]

    # Coming back

    def _fleet_changed(self, event: ev.FleetChanged) -> list[Action]:
        joined = event.workers - self._available
        self._available = event.workers
        if self.phase is Phase.SELECTING:
            return self._try_select(self._rounds.awaited)
        return [
            self._send(s)
            for s in self.slots.values()
            if s.status is Status.OPEN and s.worker_id in joined
        ]

    def _resume(self, at_s: float) -> list[Action]:
        """Ask again for what the driver lost with its memory; the fleet is told anew after it."""
        self.awaiting_cohort = False
        if self.phase is Phase.QUEUED:
            return []
        alarm = self._extend(at_s)
        if self.phase is Phase.EVALUATING:
            return alarm
        folds: list[Action] = [act.FoldUpdate(assignment_id=key) for key in self.done(Work.TRAIN)]
        if self.phase is Phase.COMMITTING:
            return [*folds, self._aggregate_action()]
        return [*folds, *alarm]

    def _all(self, work: Work) -> list[Slot]:
        return [s for s in self.slots.values() if s.work is work]

    def _with(self, work: Work, status: Status) -> list[Slot]:
        return [s for s in self._all(work) if s.status is status]
