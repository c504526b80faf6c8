"""The machine of an asynchronous run: no worker waits for another; no I/O, no clock, no randomness.

A round is the making of one version. It closes as soon as ``rounds.cohort`` updates were accepted,
whoever sent them and whichever version they started from::

    QUEUED --RunStarted--> TRAINING --the buffer is full--> COMMITTING --RoundCommitted--> TRAINING
                                                                          of the last: FINISHED

At any time ``concurrency`` workers train. A place that an update, a failure or a deadline freed is
filled at once, with the newest version there is; assignments live on from round to round, each with
a deadline of its own. While a version is committed updates are accepted for the next one, so there
is none to be left over: when the last one closes, whoever trains is told to stop.

A place that becomes free during a commit waits for its version, but for no longer than
``PATIENCE_S``; then it is filled with the version before. Once the buffer holds a whole next
version there too, updates come faster than versions are made, and places wait for the commit.

Nothing is drawn twice in a row that failed or was late: such a worker is asked again once there is
a new version, or a deadline passed without an update, or, where nobody is left at work, after
``RETRY_S``, and twice as long each time until there is an update. The run fails after
``rounds.attempts`` deadlines in a row without an update; none while an assignment is open and in
time, and none at which nobody was at work or ready, and others rest on their device.

All that decides is in the journal. Since assignments outlive rounds, a replay begins with the
first event of the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from fedfleet.algorithms.base import Asynchrony
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action, Work
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.machine import Phase, Slot, Status
from fedfleet.rounds.selection import loss_asked
from fedfleet.training.config import EvaluationConfig

# For how long a place stays free for the sake of a version that is being made.
PATIENCE_S = 1.0
# For how long all who failed are let alone, at first.
RETRY_S = 1.0
_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class VersionedSlot(Slot):
    """An assignment that knows the version it started from.

    Args:
        round: whose version it started from.
        again: assignments that the worker was given from this version before.
        lasts_s, deadline_s: how long it may take, and until when.
        counts_in: the round in which its update counts; 0 while there is none.
    """

    round: int = 0
    again: int = 0
    lasts_s: float = 0.0
    deadline_s: float = 0.0
    counts_in: int = 0

    @property
    def staleness(self) -> int:
        """Versions that were made while its worker trained, of one whose update is there."""
        return self.counts_in - self.round

    @property
    def lasted_s(self) -> float:
        """From its beginning to its end, of one that is closed."""
        return max(0.0, self.closed_s - self.opened_s)


class AsynchronousMachine:
    """Drives one run from its first version to its last.

    Args:
        run_id: prefix of the assignment ids.

    Attributes:
        round: the current round.
        attempt: deadlines that passed in a row without an update, plus one.
        slots: assignments by id: those of the round, and those of earlier ones that are open or
            whose updates are not in a version yet; ids are never reused within a run.
        deadline_s: when the alarm rings next; 0 where none is needed.
        draws: cohorts drawn in this round; part of the assignment ids and of the draw's seed.
        awaiting_cohort: SelectCohort was asked and not answered yet.
        put_off_for: workers that rest, where the last deadline was put off for them; else 0.
    """

    def __init__(
        self,
        run_id: str,
        rounds: RoundsConfig,
        evaluation: EvaluationConfig,
        asynchrony: Asynchrony,
    ) -> None:
        self._run_id = run_id
        self._rounds = rounds
        self._evaluation = evaluation
        self._asynchrony = asynchrony
        self.phase = Phase.QUEUED
        self.round = 1
        self.attempt = 1
        self.slots: dict[str, VersionedSlot] = {}
        self.deadline_s = 0.0
        self.draws = 0
        self.awaiting_cohort = False
        self.put_off_for = 0
        self.finish: act.FinishRun | None = None
        self._available: frozenset[str] = frozenset()
        self._buffer: list[str] = []  # accepted and in no version yet, in order
        self._since_s = 0.0  # the last update, or the last deadline without one
        self._resting: set[str] = set()  # failed or late, and not to be asked again at once
        self._rest_since_s = 0.0
        self._retries = 0  # since the last update
        self._last_failure = ""
        self._committing_since_s = 0.0
        self._impatient = False  # the version has been in the making for too long
        self._at_work: dict[str, VersionedSlot] = {}  # open assignments, by worker
        self._deadlines: list[tuple[float, str]] = []  # a heap, also of those that are closed
        self._given: Counter[str] = Counter()  # assignments from this round's version, by worker
        # For the history: since the last version was begun, and of the one that is being made.
        self._asked: dict[str, None] = {}
        self._late_s: dict[str, float] = {}
        self._asked_before: tuple[str, ...] = ()
        self._late_before_s: dict[str, float] = {}

    # What drivers may ask

    @property
    def cohort(self) -> tuple[str, ...]:
        """Workers that were given an assignment since the version before was begun, in order."""
        return self._asked_before if self.phase is Phase.COMMITTING else tuple(self._asked)

    @property
    def durations_s(self) -> dict[str, float]:
        """How long each worker took from its assignment to its update, of those that count.

        Of those who were late since the version before was begun, how long they were waited for.
        """
        late_s = self._late_before_s if self.phase is Phase.COMMITTING else self._late_s
        counted = [self.slots[key] for key in self._counted]
        return {**late_s, **{s.worker_id: s.lasted_s for s in counted}}

    @property
    def counting_round(self) -> int:
        """The round in which an update counts that is accepted now."""
        return self.round + len(self._buffer) // self._rounds.cohort

    @property
    def open_rounds(self) -> frozenset[int]:
        """Those whose version an assignment or an update started from that may yet count."""
        waiting = (*self._open(), *(self.slots[key] for key in self._buffer))
        return frozenset({self.round, *(slot.round for slot in waiting)})

    def counting_rounds(self, round: int) -> range:
        """Rounds in which an update that started from this one may count, or have counted."""
        last, bound = self.counting_round, self._asynchrony.max_staleness
        return range(round, 1 + (last if bound is None else min(last, round + bound)))

    def is_open(self, assignment_id: str, work: Work | None = None) -> bool:
        """Whether a result for this assignment (of this kind of work) is still wanted."""
        slot = self.slots.get(assignment_id)
        return slot is not None and slot.status is Status.OPEN and work in (None, slot.work)

    def open(self, work: Work) -> tuple[str, ...]:
        """Assignments of one kind whose results are wanted, in order of their ids."""
        return tuple(sorted(s.assignment_id for s in self._open() if s.work is work))

    def place(self, assignment_id: str) -> tuple[str, tuple[str, ...]]:
        """``lane`` and ``after`` of an assignment: there are no chains here."""
        return self.slots[assignment_id].lane, ()

    def round_of(self, assignment_id: str) -> int:
        """The round whose version an assignment starts from."""
        return self.slots[assignment_id].round

    def staleness(self, assignment_id: str) -> int:
        """Versions that were made while the worker of an accepted update trained."""
        return self.slots[assignment_id].staleness

    def done(self, work: Work) -> tuple[str, ...]:
        """Assignments whose updates count in this round, in order of their ids."""
        return tuple(sorted(self._counted)) if work is Work.TRAIN else ()

    # The machine

    def handle(self, event: ev.Event) -> list[Action]:
        """Take one event and say what is to be done now.

        Events that come too late (a result for a closed assignment, an alarm of an earlier wait)
        change nothing.
        """
        if self.phase is Phase.FINISHED:
            return []
        actions = self._take(event)
        if self.phase in (Phase.QUEUED, Phase.FINISHED):
            return actions
        return [*actions, *self._fill(), *self._set_alarm()]

    def _take(self, event: ev.Event) -> list[Action]:
        if isinstance(event, ev.RunStarted):
            if self.phase is Phase.QUEUED:
                self.phase = Phase.TRAINING
                self._since_s = event.at_s
            return []
        if isinstance(event, ev.RunResumed):
            return self._resume(event.at_s)
        if isinstance(event, ev.FleetChanged):
            return self._fleet_changed(event)
        if isinstance(event, ev.CohortSelected):
            return self._cohort_selected(event)
        if isinstance(event, ev.UpdateAccepted):
            return self._update_accepted(event)
        if isinstance(event, ev.AssignmentFailed):
            return self._assignment_failed(event)
        if isinstance(event, ev.DeadlinePassed):
            return self._deadline_passed(event)
        if isinstance(event, ev.RoundCommitted):
            return self._committed(event) if self.phase is Phase.COMMITTING else []
        if isinstance(event, ev.RunBroken):
            return self._finish("failed", event.code, event.reason)
        if isinstance(event, ev.StopRequested):
            return self._finish("stopped", "", "stopped by an operator")
        return []  # nobody is probed, no worker evaluates

    def validate(self) -> None:
        """Assert the invariants; tests call it after every event."""
        at_work = [s.worker_id for s in self.slots.values() if s.status is Status.OPEN]
        limit = self._asynchrony.concurrency
        assert len(set(at_work)) == len(at_work), "a worker has two assignments"
        assert set(at_work) == self._at_work.keys(), "lost sight of who is at work"
        assert limit is None or len(at_work) <= limit, "more at work than may be"
        assert 1 <= self.round <= self._rounds.rounds
        assert 1 <= self.attempt <= self._rounds.attempts
        assert len(set(self._buffer)) == len(self._buffer), "an update counts twice"
        for place, key in enumerate(self._buffer):
            slot = self.slots[key]
            assert slot.status is Status.DONE
            assert slot.counts_in == self.round + place // self._rounds.cohort
            self._validate_staleness(slot.staleness)
        for slot in self._open():
            self._validate_staleness(self.counting_round - slot.round)
        if self.phase is Phase.TRAINING:
            assert len(self._buffer) < self._rounds.cohort, "a full buffer waits"
        if self.phase is Phase.COMMITTING:
            assert len(self._buffer) >= self._rounds.cohort, "committed too few"
        if self.phase in (Phase.QUEUED, Phase.FINISHED):
            assert not at_work, "an assignment was left behind"

    def _validate_staleness(self, staleness: int) -> None:
        bound = self._asynchrony.max_staleness
        assert staleness >= 0, "an update of a version that is not there yet"
        assert bound is None or staleness <= bound, "too stale"

    # Filling places

    def _fill(self) -> list[Action]:
        """Ask for workers for the places that are free, if there are both."""
        if self.awaiting_cohort or not self._fills:
            return []
        limit = self._asynchrony.concurrency
        free = len(self._available) if limit is None else limit - len(self._at_work)
        idle = self._available.difference(self._at_work, self._resting) if free > 0 else ()
        if not idle:
            return []
        # Whoever has trained this version is asked for it again only when others do not suffice.
        candidates = sorted(worker for worker in idle if not self._given[worker]) or sorted(idle)
        self.awaiting_cohort = True
        return [
            act.SelectCohort(
                round=self.round,
                candidates=tuple(candidates),
                size=min(free, len(candidates)),
                draw=self.draws + 1,
            )
        ]

    @property
    def _fills(self) -> bool:
        """Whether places are filled now."""
        return self.phase is Phase.TRAINING or (self._impatient and self._has_room)

    @property
    def _has_room(self) -> bool:
        """Whether, during a commit, an assignment from the version before it is of any use."""
        counting, bound = self.counting_round, self._asynchrony.max_staleness
        return (
            self.phase is Phase.COMMITTING
            and len(self._buffer) < 2 * self._rounds.cohort
            and counting <= self._rounds.rounds
            and (bound is None or counting - self.round <= bound)
        )

    def _cohort_selected(self, event: ev.CohortSelected) -> list[Action]:
        self.awaiting_cohort = False
        if not self._fills:
            return []  # the buffer filled up meanwhile: they are to get the next version
        self.draws += 1
        corrections = dict(zip(event.workers, event.corrections, strict=False))
        lasts_s = event.deadline_s or self._rounds.deadline_s
        sent: list[Action] = []
        for chain in event.chains:
            for worker_id in chain.workers:
                if worker_id in self._at_work:
                    continue
                key = f"{self._run_id}/{self.round}/{self.draws}/{Work.TRAIN.value}/{worker_id}"
                slot = VersionedSlot(
                    assignment_id=key,
                    worker_id=worker_id,
                    work=Work.TRAIN,
                    chain=(key,),
                    lane=chain.lane,
                    correction=corrections.get(worker_id, 1.0),
                    opened_s=event.at_s,
                    round=self.round,
                    again=self._given[worker_id],
                    lasts_s=lasts_s,
                    deadline_s=event.at_s + lasts_s,
                )
                self._given[worker_id] += 1
                self._asked[worker_id] = None
                self._put(slot)
                sent.append(self._send(slot))
        return sent

    def _put(self, slot: VersionedSlot) -> None:
        """Keep a slot as it is now."""
        self.slots[slot.assignment_id] = slot
        if slot.status is Status.OPEN:
            self._at_work[slot.worker_id] = slot
            heappush(self._deadlines, (slot.deadline_s, slot.assignment_id))
        else:
            del self._at_work[slot.worker_id]

    def _send(self, slot: VersionedSlot) -> Action:
        return act.SendAssignment(
            assignment_id=slot.assignment_id,
            worker_id=slot.worker_id,
            round=slot.round,
            work=slot.work,
            deadline_s=slot.deadline_s,
            lane=slot.lane,
            again=slot.again,
        )

    # Collecting

    def _update_accepted(self, event: ev.UpdateAccepted) -> list[Action]:
        if not self.is_open(event.assignment_id):
            return []
        slot, key = self.slots[event.assignment_id], event.assignment_id
        counts_in = self.counting_round
        self._put(replace(slot, status=Status.DONE, closed_s=event.at_s, counts_in=counts_in))
        self._buffer.append(key)
        self._since_s = event.at_s
        self.attempt = 1
        self._retries = 0
        actions = self._expire_stale()
        if self.phase is Phase.TRAINING:
            actions.insert(0, act.FoldUpdate(assignment_id=key))
            if len(self._buffer) >= self._rounds.cohort:
                actions.append(self._aggregate(event.at_s))
        return actions

    def _assignment_failed(self, event: ev.AssignmentFailed) -> list[Action]:
        if not self.is_open(event.assignment_id):
            return []
        slot = self.slots[event.assignment_id]
        self._last_failure = f"{slot.worker_id}: {event.code}: {event.reason}"
        self._put(replace(slot, status=Status.FAILED, closed_s=event.at_s))
        self._rest([slot], event.at_s)
        return []

    def _rest(self, slots: list[VersionedSlot], at_s: float) -> None:
        """Let those alone whose assignments came to nothing."""
        self._resting.update(slot.worker_id for slot in slots)
        self._rest_since_s = at_s

    @property
    def _retry_s(self) -> float | None:
        """When those who rest are asked again though nothing came since; None: not before.

        While nobody is at work: what all of them failed at may have been the same, and passed.
        """
        if self._at_work or not self._resting:
            return None
        return self._rest_since_s + RETRY_S * 2.0 ** min(self._retries, _MOST_DOUBLINGS)

    def _deadline_passed(self, event: ev.DeadlinePassed) -> list[Action]:
        at_s = event.at_s
        if at_s < self.deadline_s:
            # Of an earlier wait; or the clock was set back, and nothing else would wake this.
            return [act.WakeAt(at_s=self.deadline_s)]
        self._available = frozenset(event.workers)
        self.put_off_for = 0
        nobody = not self._at_work
        late = [slot for slot in self._open() if slot.deadline_s <= at_s]
        expired = self._expire(late, "the assignment's deadline passed", at_s)
        if late:
            self._late_s |= {s.worker_id: self.slots[s.assignment_id].lasted_s for s in late}
            self._rest(late, at_s)
        if self._retry_s is not None and at_s >= self._retry_s:
            self._retries += 1
            self._resting.clear()
        if self.phase is Phase.COMMITTING:
            self._impatient = at_s >= self._committing_since_s + PATIENCE_S
            return expired
        if self._at_work or at_s < self._since_s + self._rounds.deadline_s:
            return expired
        if event.resting and nobody and not self._available:
            # Nobody was asked, so nothing was tried; they come when their owners allow it.
            self.put_off_for = event.resting
            self._wait_anew(at_s)
            return expired
        return [*expired, *self._attempt_over(at_s)]

    def _attempt_over(self, at_s: float) -> list[Action]:
        """A deadline passed and there was no update."""
        if self.attempt >= self._rounds.attempts:
            last = f"; last failure: {self._last_failure}" if self._last_failure else ""
            return self._finish(
                "failed",
                "QUORUM_NOT_MET",
                f"round {self.round}: {len(self._buffer)} of {self._rounds.cohort} updates and "
                f"{len(self._available)} workers{self._rounds.tagged} ready after "
                f"{self.attempt} deadlines without an update{last}",
            )
        self.attempt += 1
        self._wait_anew(at_s)
        return []

    def _wait_anew(self, at_s: float) -> None:
        self._since_s = at_s
        self._resting.clear()

    def _expire_stale(self) -> list[Action]:
        """Give up what could only count too late, now that the counting round may be another."""
        counting, bound = self.counting_round, self._asynchrony.max_staleness
        if counting > self._rounds.rounds:
            return self._expire(self._open(), "the run has the updates that it needs")
        if bound is None:
            return []
        stale = [slot for slot in self._open() if counting - slot.round > bound]
        return self._expire(stale, f"{bound} newer versions were made meanwhile")

    def _expire(self, slots: list[VersionedSlot], reason: str, at_s: float = 0.0) -> list[Action]:
        for slot in slots:
            self._put(replace(slot, status=Status.EXPIRED, closed_s=at_s))
        return [
            act.CancelAssignment(
                assignment_id=slot.assignment_id, worker_id=slot.worker_id, reason=reason
            )
            for slot in slots
        ]

    # Closing

    def _aggregate(self, at_s: float) -> Action:
        if self.phase is not Phase.COMMITTING:  # else it is made again after a restart
            self._asked_before, self._late_before_s = tuple(self._asked), self._late_s
            self._asked, self._late_s = {}, {}
        self.phase = Phase.COMMITTING
        self._committing_since_s = at_s
        self._impatient = False
        return act.Aggregate(
            round=self.round,
            assignment_ids=self.done(Work.TRAIN),
            evaluate=self._evaluation.due(self.round, self._rounds.rounds),
        )

    def _committed(self, event: ev.RoundCommitted) -> list[Action]:
        self._available = frozenset(event.workers)
        closed = act.CloseRound(round=self.round)
        if self.round == self._rounds.rounds:
            return [closed, *self._finish("completed")]
        del self._buffer[: self._rounds.cohort]
        waiting = set(self._buffer)
        self.slots = {
            key: slot
            for key, slot in self.slots.items()
            if slot.status is Status.OPEN or key in waiting
        }
        self.round += 1
        self.draws = 0
        self.attempt = 1
        self._since_s = event.at_s
        self._resting.clear()
        self._last_failure = ""
        self._given.clear()
        self.phase = Phase.TRAINING
        return [closed, *self._collected(event.at_s)]

    def _collected(self, at_s: float) -> list[Action]:
        """Fold what was accepted for this round before it began, and close it if that is all."""
        actions: list[Action] = [act.FoldUpdate(assignment_id=key) for key in self._counted]
        if len(self._buffer) >= self._rounds.cohort:
            actions.append(self._aggregate(at_s))
        return actions

    def _finish(self, outcome: str, code: str = "", reason: str = "") -> list[Action]:
        cancelled = self._expire(self._open(), "the run is over")
        self.phase = Phase.FINISHED
        self.finish = act.FinishRun(outcome=outcome, code=code, reason=reason)
        return [*cancelled, self.finish]

    # Coming back

    def _fleet_changed(self, event: ev.FleetChanged) -> list[Action]:
        joined = event.workers - self._available
        self._available = event.workers
        return [self._send(slot) for slot in self._open() if slot.worker_id in joined]

    def _resume(self, at_s: float) -> list[Action]:
        """Ask again for what the driver lost with its memory; the fleet is told anew after it."""
        self._available = frozenset()
        self.awaiting_cohort = False
        self.deadline_s = 0.0
        self._since_s = at_s
        for slot in self._open():
            self._put(replace(slot, deadline_s=at_s + slot.lasts_s))
        return self._collected(at_s)

    # Time

    def _set_alarm(self) -> list[Action]:
        """Ask to be woken, if it is another time than was asked for."""
        next_s = min(self._times_s(), default=0.0)
        if next_s == self.deadline_s:
            return []
        self.deadline_s = next_s
        return [act.WakeAt(at_s=next_s)] if next_s else []

    def _times_s(self) -> list[float]:
        """When something is to be done if nothing comes before."""
        times_s = []
        if self._at_work:
            times_s.append(self._first_deadline_s())
        elif self.phase is Phase.TRAINING:
            times_s.append(self._since_s + self._rounds.deadline_s)
        if self._retry_s is not None:
            times_s.append(self._retry_s)
        if self._has_room and not self._impatient:
            times_s.append(self._committing_since_s + PATIENCE_S)
        return times_s

    def _first_deadline_s(self) -> float:
        """Of all open assignments, of which there is one."""
        while True:
            deadline_s, key = self._deadlines[0]
            slot = self.slots.get(key)
            if slot is not None and slot.status is Status.OPEN and slot.deadline_s == deadline_s:
                return deadline_s
            heappop(self._deadlines)

    @property
    def _counted(self) -> list[str]:
        """Assignments whose updates count in this round, as they came."""
        return self._buffer[: self._rounds.cohort]

    def _open(self) -> list[VersionedSlot]:
        return list(self._at_work.values())


def check_asynchronous(rounds: RoundsConfig, evaluation: EvaluationConfig) -> None:
    """Raises ValueError: the recipe asks for something that makes workers wait for each other."""
    asked = {
        "rounds.over_select": rounds.over_select,
        "rounds.quorum": rounds.quorum,
        "rounds.min_workers": rounds.min_workers,
    }
    for name, value in asked.items():
        if value:
            raise ValueError(f"{name} = {value}: nobody waits for a cohort here; leave it out")
    if rounds.mode != "synchronous":
        raise ValueError(f'rounds.mode = "{rounds.mode}": a round has no end here; leave it out')
    if loss_asked(rounds):
        raise ValueError(
            f'rounds.selection = "{rounds.selection}": asks workers for losses before each draw, '
            'which others would wait for; take loss = "last", or another selection'
        )
    if evaluation.workers != "none":
        raise ValueError(
            f'evaluation.workers = "{evaluation.workers}": workers that train do not stop to '
            "evaluate a version; leave it to the coordinator"
        )
