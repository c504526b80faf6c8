"""The round state machine: events in, actions out; no I/O, no clock, no randomness.

Life of a round::

    SELECTING --CohortSelected--> TRAINING --enough updates--> COMMITTING --RoundCommitted-->
        ^   ^                        |                                            |
        |   '--deadline, no quorum---'        evaluation due: EVALUATING <--------'
        '------------------ CloseRound ------------------'   else CloseRound

A round keeps the updates that it accepted through every attempt: an attempt that misses its
quorum draws replacements only for what is missing. A cohort is made of chains: whoever is not the
first of its chain waits for its turn. A selection that needs losses has some workers asked for them
first: ``SELECTING --ProbesSelected--> PROBING --all have answered, or the deadline--> SELECTING``.
A deadline at which too few are ready is put off while others rest on their device, and no attempt.
A model with static normalisation is measured before it is published:
``TRAINING --enough updates--> QUERYING --all have answered, or the deadline--> COMMITTING``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from fedfleet.algorithms.plan import MAIN, Chain
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action, Work
from fedfleet.rounds.config import RoundsConfig
from fedfleet.training.config import EvaluationConfig

# Seconds that a query may take beyond what the slowest of its workers trained for.
_QUERY_S = 5.0


class Phase(str, Enum):
    """What the machine waits for."""

    QUEUED = "queued"  # RunStarted
    SELECTING = "selecting"  # enough workers, then CohortSelected
    PROBING = "probing"  # losses
    TRAINING = "training"  # updates
    QUERYING = "querying"  # statistics
    COMMITTING = "committing"  # RoundCommitted
    EVALUATING = "evaluating"  # evaluations
    FINISHED = "finished"  # nothing


class Status(str, Enum):
    """Where an assignment stands; a waiting one can only become open, an open one can end."""

    WAITING = "waiting"  # for the one before it in its chain
    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Slot:
    """One assignment of the current round.

    Args:
        chain: the assignments of its chain, itself included, in their order.
        lane: of its chain.
        correction: what makes up for the worker's chance to be drawn.
        opened_s, closed_s: when it was first sent; when its result came, or it was told to stop.
    """

    assignment_id: str
    worker_id: str
    work: Work
    status: Status = Status.OPEN
    chain: tuple[str, ...] = ()
    lane: str = MAIN
    correction: float = 1.0
    opened_s: float = 0.0
    closed_s: float = 0.0


class RoundMachine:
    """Drives one run from its first round to its end.

    Args:
        run_id: prefix of the assignment ids.
        first_round: the round to begin with, counted from 1 (after a restart: the one after the
            last that was closed).
        queries: ask workers for the statistics of what a round came to, before it is published.

    Attributes:
        round: the current round.
        attempt: deadlines of this round that passed without a quorum, plus one.
        slots: every assignment of the round by id; ids are never reused within a run.
        deadline_s: when the current wait ends; meaningful in SELECTING, PROBING, TRAINING,
            QUERYING, EVALUATING.
        draws: cohorts drawn in this round; part of the assignment ids and of the draw's seed.
        awaiting_cohort: SelectCohort was asked and not answered yet.
        put_off_for: workers that rest, where the last deadline was put off for them; else 0.
    """

    def __init__(
        self,
        run_id: str,
        rounds: RoundsConfig,
        evaluation: EvaluationConfig,
        first_round: int = 1,
        *,
        queries: bool = False,
    ) -> None:
        self._run_id = run_id
        self._queries = queries
        self._rounds = rounds
        self._evaluation = evaluation
        self.phase = Phase.QUEUED
        self.round = first_round
        self.attempt = 1
        self.slots: dict[str, Slot] = {}
        self.deadline_s = 0.0
        self.draws = 0
        self.awaiting_cohort = False
        self.put_off_for = 0
        self.finish: act.FinishRun | None = None
        self._available: frozenset[str] = frozenset()
        self._wanted = rounds.cohort  # updates that complete the round
        self._last_failure = ""
        self._losses: dict[str, float] | None = None  # what came of the draw's probes
        self._lasts_s = 0.0  # from the draw's assignments to their deadline; 0 is the recipe's

    # What drivers may ask

    @property
    def cohort(self) -> tuple[str, ...]:
        """Workers that train in this round, in order of their assignments."""
        return tuple(s.worker_id for s in self.slots.values() if s.work is Work.TRAIN)

    @property
    def durations_s(self) -> dict[str, float]:
        """How long each worker took from its assignment to its update, of those that count.

        Of the others that worked until they were told to stop: how long they were waited for.
        """
        late = [s for s in self._with(Work.TRAIN, Status.EXPIRED) if s.closed_s]
        done = self._with(Work.TRAIN, Status.DONE)  # after who was late in an attempt before
        return {s.worker_id: max(0.0, s.closed_s - s.opened_s) for s in (*late, *done)}

    def is_open(self, assignment_id: str, work: Work | None = None) -> bool:
        """Whether a result for this assignment (of this kind of work) is still wanted."""
        slot = self.slots.get(assignment_id)
        if slot is None or slot.status is not Status.OPEN:
            return False
        return work is None or slot.work is work

    def open(self, work: Work) -> tuple[str, ...]:
        """Assignments of one kind whose results are wanted, in order of their ids."""
        return tuple(sorted(s.assignment_id for s in self._with(work, Status.OPEN)))

    def place(self, assignment_id: str) -> tuple[str, tuple[str, ...]]:
        """``lane`` and ``after`` of an assignment of the round that is open or was."""
        slot = self.slots[assignment_id]
        earlier = slot.chain[: slot.chain.index(assignment_id)]
        done = tuple(key for key in earlier if self.slots[key].status is Status.DONE)
        return slot.lane, done

    @property
    def counting_round(self) -> int:
        """The round in which an update counts that is accepted now."""
        return self.round

    @property
    def open_rounds(self) -> frozenset[int]:
        """Those whose version a train assignment may yet start from."""
        return frozenset() if self.phase is Phase.EVALUATING else frozenset({self.round})

    def counting_rounds(self, round: int) -> range:
        """Rounds in which an update that started from this one may count, or have counted."""
        return range(round, round + 1)

    def round_of(self, assignment_id: str) -> int:
        """The round whose version an assignment starts from."""
        return self.round

    def staleness(self, assignment_id: str) -> int:
        """Versions that were made while the worker of an accepted update trained."""
        return 0

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
        if isinstance(event, ev.ProbesSelected):
            return self._probes_selected(event)
        if isinstance(event, ev.ProbeReported):
            return self._probe_reported(event)
        if isinstance(event, ev.CohortSelected):
            return self._cohort_selected(event)
        if isinstance(event, ev.UpdateAccepted):
            return self._update_accepted(event)
        if isinstance(event, ev.EvaluationReported):
            return self._settle(event.assignment_id, Work.EVALUATE, Status.DONE, event.at_s)
        if isinstance(event, ev.StatisticsReported):
            return self._settle(event.assignment_id, Work.QUERY, Status.DONE, event.at_s)
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
        if self.phase is Phase.PROBING:
            assert self._with(Work.PROBE, Status.OPEN), "probing without anybody at work"
            assert self._losses is not None
        if self.phase is Phase.QUERYING:
            assert self._with(Work.QUERY, Status.OPEN), "querying without anybody at work"
        if self.phase is Phase.EVALUATING:
            assert self._with(Work.EVALUATE, Status.OPEN), "evaluating without anybody at work"
        for slot in self._with(Work.TRAIN, Status.WAITING):
            before = slot.chain[: slot.chain.index(slot.assignment_id)]
            earlier = [self.slots[key] for key in before]
            pending = (Status.OPEN, Status.WAITING)
            assert any(s.status in pending for s in earlier), "nobody calls the next of its chain"
        if self.phase in (Phase.COMMITTING, Phase.SELECTING, Phase.FINISHED):
            assert not self._pending(), "an assignment was left behind"
        if self.phase in (Phase.QUERYING, Phase.COMMITTING, Phase.EVALUATING):
            assert len(trained) >= self._needed, "committed below the quorum"

    # Selecting

    def _begin(self, at_s: float) -> list[Action]:
        self.phase = Phase.SELECTING
        return [*self._extend(at_s), *self._try_select(self._rounds.awaited)]

    def _extend(self, at_s: float, lasts_s: float = 0.0) -> list[Action]:
        self.deadline_s = at_s + (lasts_s or self._rounds.deadline_s)
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
        missing = max(1, self._wanted - len(self._with(Work.TRAIN, Status.DONE)))
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
                losses=None if self._losses is None else dict(self._losses),
            )
        ]

    def _probes_selected(self, event: ev.ProbesSelected) -> list[Action]:
        if self.phase is not Phase.SELECTING or self._losses is not None:
            return []
        assert event.workers, "SelectCohort is never asked without candidates"
        self.awaiting_cohort = False
        self._losses = {}
        self.phase = Phase.PROBING
        chains = tuple(Chain((worker,)) for worker in event.workers)
        return [*self._extend(event.at_s), *self._assign(chains, Work.PROBE, event.at_s)]

    def _probe_reported(self, event: ev.ProbeReported) -> list[Action]:
        slot = self.slots.get(event.assignment_id)
        if slot is not None and slot.status is Status.OPEN and self._losses is not None:
            self._losses[slot.worker_id] = event.loss
        return self._settle(event.assignment_id, Work.PROBE, Status.DONE, event.at_s)

    def _probes_over(self, at_s: float, awaited: int) -> list[Action]:
        """Draw by the losses that there are; who did not answer is not among them."""
        self.phase = Phase.SELECTING
        return [*self._extend(at_s), *self._try_select(awaited)]

    def _cohort_selected(self, event: ev.CohortSelected) -> list[Action]:
        if self.phase is not Phase.SELECTING:
            return []
        assert event.workers, "SelectCohort is never asked without candidates"
        self.awaiting_cohort = False
        self.draws += 1
        self._losses = None
        self.phase = Phase.TRAINING
        if event.updates:
            planned = len(self._with(Work.TRAIN, Status.DONE)) + event.updates
            self._wanted = min(planned, self._rounds.cohort)
        self._lasts_s = event.deadline_s
        alarm = self._extend(event.at_s, self._lasts_s)
        corrections = dict(zip(event.workers, event.corrections, strict=False))
        return [*alarm, *self._assign(event.chains, Work.TRAIN, event.at_s, corrections)]

    def _assign(
        self,
        chains: tuple[Chain, ...],
        work: Work,
        at_s: float,
        corrections: Mapping[str, float] = MappingProxyType({}),
    ) -> list[Action]:
        # Probes come before the draw that they are for.
        draw = self.draws + 1 if work is Work.PROBE else self.draws
        prefix = f"{self._run_id}/{self.round}/{draw}/{work.value}/"
        for chain in chains:
            keys = tuple(prefix + worker_id for worker_id in chain.workers)
            for key, worker_id in zip(keys, chain.workers, strict=True):
                self.slots[key] = Slot(
                    assignment_id=key,
                    worker_id=worker_id,
                    work=work,
                    status=Status.OPEN if key == keys[0] else Status.WAITING,
                    chain=keys,
                    lane=chain.lane,
                    correction=corrections.get(worker_id, 1.0),
                    opened_s=at_s,
                )
        return [self._send(s) for s in self._with(work, Status.OPEN)]

    def _send(self, slot: Slot) -> Action:
        lane, after = self.place(slot.assignment_id)
        return act.SendAssignment(
            assignment_id=slot.assignment_id,
            worker_id=slot.worker_id,
            round=self.round,
            work=slot.work,
            deadline_s=self.deadline_s,
            after=after,
            lane=lane,
        )

    def _call_next(self, slot: Slot, at_s: float) -> list[Action]:
        """It is the turn of the one after this in its chain, if there is one."""
        for key in slot.chain[slot.chain.index(slot.assignment_id) + 1 :]:
            self.slots[key] = replace(self.slots[key], status=Status.OPEN, opened_s=at_s)
            return [self._send(self.slots[key])]
        return []

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
        self.slots[assignment_id] = replace(slot, status=status, closed_s=at_s)
        if work is Work.EVALUATE:
            return [] if self._pending() else self._close(at_s)
        if work is Work.PROBE:
            return [] if self._pending() else self._probes_over(at_s, self._rounds.awaited)
        if work is Work.QUERY:
            return [] if self._pending() else self._commit()
        if len(self._with(Work.TRAIN, Status.DONE)) >= self._wanted:
            return self._aggregate(at_s)
        called = self._call_next(slot, at_s)
        return called if self._pending() else self._attempt_over(at_s)

    def _deadline_passed(self, event: ev.DeadlinePassed) -> list[Action]:
        at_s = event.at_s
        if at_s < self.deadline_s:
            # Of an earlier wait; or the clock was set back, and nothing else would wake this.
            return [act.WakeAt(at_s=self.deadline_s)]
        self._available = frozenset(event.workers)
        self.put_off_for = 0
        if self.phase is Phase.SELECTING:
            # Decided by what the event carries alone: whether a cohort was asked for already is
            # not known to a replay, which is not told of the fleet.
            if self._candidates(self._rounds.needed):
                return self._try_select(self._rounds.needed)
            if event.resting:
                # Nobody was asked, so nothing was tried; they come when their owners allow it.
                self.put_off_for = event.resting
                return self._extend(at_s)
            return self._attempt_over(at_s)
        if self.phase is Phase.PROBING:
            expired = self._expire("the round's deadline passed", at_s)
            return [*expired, *self._probes_over(at_s, self._rounds.needed)]
        if self.phase is Phase.TRAINING:
            return [*self._expire("the round's deadline passed", at_s), *self._attempt_over(at_s)]
        if self.phase is Phase.QUERYING:
            return [*self._expire("the round's deadline passed", at_s), *self._commit()]
        if self.phase is Phase.EVALUATING:
            return [*self._expire("the round's deadline passed", at_s), *self._close(at_s)]
        return []

    def _attempt_over(self, at_s: float) -> list[Action]:
        """Nobody is at work any more: close with a quorum, else try again, else give up."""
        updates = len(self._with(Work.TRAIN, Status.DONE))
        if updates >= self._needed:
            return self._aggregate(at_s)
        if self.attempt >= self._rounds.attempts:
            last = f"; last failure: {self._last_failure}" if self._last_failure else ""
            return self._finish(
                "failed",
                "QUORUM_NOT_MET",
                f"round {self.round}: {updates} of {self._needed} updates and "
                f"{len(self._available)} workers{self._rounds.tagged} ready after "
                f"{self.attempt} attempts{last}",
            )
        self.attempt += 1
        self.phase = Phase.SELECTING
        return [*self._extend(at_s), *self._try_select(self._rounds.awaited)]

    def _expire(self, reason: str, at_s: float = 0.0) -> list[Action]:
        """Close every assignment that is open or waits for its turn."""
        late = self._pending()
        for slot in late:
            closed_s = at_s if slot.status is Status.OPEN else 0.0
            expired = replace(slot, status=Status.EXPIRED, closed_s=closed_s)
            self.slots[slot.assignment_id] = expired
        return [
            act.CancelAssignment(
                assignment_id=s.assignment_id, worker_id=s.worker_id, reason=reason
            )
            for s in late
            if s.status is Status.OPEN
        ]

    # Closing

    def _aggregate(self, at_s: float) -> list[Action]:
        cancelled = self._expire("the round has the updates that it needs", at_s)
        # Only workers that hold the whole model can measure its statistics.
        whole = [s for s in self._with(Work.TRAIN, Status.DONE) if s.lane == MAIN]
        if not self._queries or not whole:
            return [*cancelled, *self._commit()]
        self.phase = Phase.QUERYING
        chains = tuple(Chain((worker,)) for worker in sorted(s.worker_id for s in whole))
        # A look at the data takes no longer than training; whoever left costs no more than that.
        lasts_s = max(s.closed_s - s.opened_s for s in whole) + _QUERY_S
        alarm = self._extend(at_s, min(lasts_s, self._rounds.deadline_s))
        return [*cancelled, *alarm, *self._assign(chains, Work.QUERY, at_s)]

    def _commit(self) -> list[Action]:
        self.phase = Phase.COMMITTING
        return [self._aggregate_action()]

    def _aggregate_action(self) -> Action:
        return act.Aggregate(
            round=self.round,
            assignment_ids=self.done(Work.TRAIN),
            evaluate=self._evaluation.due(self.round, self._rounds.rounds),
            queries=self.done(Work.QUERY),
        )

    def _committed(self, event: ev.RoundCommitted) -> list[Action]:
        self._available = frozenset(event.workers)
        workers = self._evaluators()
        if not workers:
            return self._close(event.at_s)
        self.phase = Phase.EVALUATING
        chains = tuple(Chain((worker,)) for worker in workers)
        return [*self._extend(event.at_s), *self._assign(chains, Work.EVALUATE, event.at_s)]

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
        self._wanted = self._rounds.cohort
        self._last_failure = ""
        self._losses = None
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
        alarm = self._extend(at_s, self._lasts_s if self.phase is Phase.TRAINING else 0.0)
        if self.phase is Phase.EVALUATING:
            return alarm
        folds: list[Action] = [act.FoldUpdate(assignment_id=key) for key in self.done(Work.TRAIN)]
        if self.phase is Phase.COMMITTING:
            return [*folds, self._aggregate_action()]
        return [*folds, *alarm]

    @property
    def _needed(self) -> int:
        return min(self._rounds.needed, self._wanted)

    def _pending(self) -> list[Slot]:
        return [s for s in self.slots.values() if s.status in (Status.OPEN, Status.WAITING)]

    def _all(self, work: Work) -> list[Slot]:
        return [s for s in self.slots.values() if s.work is work]

    def _with(self, work: Work, status: Status) -> list[Slot]:
        return [s for s in self._all(work) if s.status is status]
