"""Laws of the asynchronous machine under any sequence of events."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedfleet.algorithms.base import Asynchrony
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.asynchronous import PATIENCE_S, AsynchronousMachine
from fedfleet.rounds.chance import shuffled
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.machine import Phase
from fedfleet.training.config import EvaluationConfig

WORKERS = [f"w{i}" for i in range(5)]
DEADLINE_S = 10.0
# How far back among the assignments that were ever sent; the first one is a made-up id.
recent = st.integers(1, 12)
fleets = st.sets(st.sampled_from(WORKERS)).map(frozenset)
limits = st.none() | st.integers(1, 3)


@st.composite
def round_configs(draw: Any) -> RoundsConfig:
    return RoundsConfig(
        rounds=draw(st.integers(1, 4)),
        cohort=draw(st.integers(1, 3)),
        attempts=draw(st.integers(1, 3)),
        deadline_s=DEADLINE_S,
    )


class AnyHistory(RuleBasedStateMachine):
    """Plays the driver of one run, with everything that can go wrong around it."""

    @initialize(rounds=round_configs(), concurrency=limits, bound=st.none() | st.integers(0, 2))
    def start(self, rounds: RoundsConfig, concurrency: int | None, bound: int | None) -> None:
        self.rounds = rounds
        self.asynchrony = Asynchrony(concurrency, bound)
        self.machine = self.new_machine()
        self.now_s = 100.0
        self.fleet: frozenset[str] = frozenset()
        self.journal: list[ev.Event] = []
        self.wake_at_s: float | None = None
        self.to_select: act.SelectCohort | None = None
        self.to_commit: act.Aggregate | None = None
        self.sent = ["nobody/knows/this"]
        self.folded: list[str] = []
        # What was accepted, in order: the versions are made of it in that order.
        self.accepted: list[str] = []
        self.started_from: dict[str, int] = {}
        self.versions: list[list[str]] = []
        self.finished: list[act.FinishRun] = []
        self.broken = False
        self.feed(ev.RunStarted(at_s=self.now_s))

    def new_machine(self) -> AsynchronousMachine:
        return AsynchronousMachine("r-1", self.rounds, EvaluationConfig(), self.asynchrony)

    # The driver

    def feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.DURABLE):
            fields = json.loads(json.dumps(ev.to_fields(event)))
            again = ev.from_fields(ev.kind_of(event), event.at_s, fields)
            assert again is not None
            self.journal.append(again)
        over = self.machine.phase is Phase.FINISHED
        actions = self.machine.handle(event)
        self.machine.validate()
        assert not (over and actions), "asks for something after the end"
        for action in actions:
            self.carry_out(action)

    def carry_out(self, action: act.Action) -> None:
        if isinstance(action, act.SelectCohort):
            assert self.to_select is None, "two draws at once"
            assert 0 < action.size <= len(action.candidates)
            assert list(action.candidates) == sorted(set(action.candidates))
            assert not set(action.candidates) & self.at_work, "asks one that is at work"
            assert set(action.candidates) <= self.machine._available
            limit = self.asynchrony.concurrency
            assert limit is None or action.size <= limit - len(self.at_work)
            self.to_select = action
        elif isinstance(action, act.SendAssignment):
            assert self.machine.is_open(action.assignment_id, act.Work.TRAIN)
            assert action.deadline_s > self.now_s
            known = self.started_from.setdefault(action.assignment_id, action.round)
            assert known == action.round == self.machine.round_of(action.assignment_id)
            self.sent.append(action.assignment_id)
        elif isinstance(action, act.CancelAssignment):
            assert not self.machine.is_open(action.assignment_id)
        elif isinstance(action, act.WakeAt):
            self.wake_at_s = action.at_s
        elif isinstance(action, act.FoldUpdate):
            assert action.assignment_id not in self.folded, "folded twice"
            self.folded.append(action.assignment_id)
            staleness = self.machine.round - self.started_from[action.assignment_id]
            assert self.machine.staleness(action.assignment_id) == staleness >= 0
            began = self.started_from[action.assignment_id]
            assert self.machine.round in self.machine.counting_rounds(began)
            bound = self.asynchrony.max_staleness
            assert bound is None or staleness <= bound
        elif isinstance(action, act.Aggregate):
            assert action.round == self.machine.round == len(self.versions) + 1
            assert sorted(self.folded) == list(action.assignment_ids), "the sum holds others"
            assert len(action.assignment_ids) == self.rounds.cohort
            self.to_commit = action
            self.committing_s = self.now_s
        elif isinstance(action, act.CloseRound):
            assert action.round == len(self.versions), "closed uncommitted"
            self.folded.clear()
        else:
            self.finished.append(action)

    @property
    def at_work(self) -> set[str]:
        keys = self.machine.open(act.Work.TRAIN)
        return {self.machine.slots[key].worker_id for key in keys}

    # What can happen

    @rule(fleet=fleets)
    def workers_come_and_go(self, fleet: frozenset[str]) -> None:
        self.fleet = fleet
        self.feed(ev.FleetChanged(at_s=self.now_s, workers=fleet))

    @precondition(lambda self: self.to_select is not None)
    @rule(seed=st.integers(0, 2**63 - 1), lasts_s=st.sampled_from([0.0, 4.0]))
    def cohort_is_drawn(self, seed: int, lasts_s: float = 0.0) -> None:
        asked, self.to_select = self.to_select, None
        assert asked is not None
        chosen = tuple(sorted(shuffled(asked.candidates, seed)[: asked.size]))
        event = ev.CohortSelected(at_s=self.now_s, workers=chosen, deadline_s=lasts_s)
        is_late = not self.machine._fills
        self.feed(event)
        assert is_late or set(chosen) <= self.at_work

    @rule(back=recent)
    def update_arrives(self, back: int) -> None:
        self.deliver(self.sent[-back:][0])

    def deliver(self, key: str) -> None:
        if self.machine.is_open(key, act.Work.TRAIN):
            self.accepted.append(key)
        self.feed(ev.UpdateAccepted(at_s=self.now_s, assignment_id=key, weight=1.0))

    @rule(back=recent)
    def worker_fails(self, back: int) -> None:
        key = self.sent[-back:][0]
        self.feed(
            ev.AssignmentFailed(at_s=self.now_s, assignment_id=key, code="DATA_EMPTY", reason="x")
        )

    @rule(others=fleets)
    def all_goes_well(self, others: frozenset[str]) -> None:
        """The step that is due, so that most histories come far."""
        open_ids = [key for key in self.sent if self.machine.is_open(key)]
        if self.to_select is not None:
            self.cohort_is_drawn(0)
        elif self.to_commit is not None:
            self.round_is_committed(self.fleet)
        elif open_ids:
            self.deliver(open_ids[-1])
        else:
            self.workers_come_and_go(self.fleet | others)

    @rule()
    def all_goes_well_again(self) -> None:
        self.all_goes_well(frozenset(WORKERS))

    @rule(seconds=st.floats(0, 1.5 * DEADLINE_S))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        if self.wake_at_s is not None and self.now_s >= self.wake_at_s:
            self.alarm_rings(self.fleet)

    @rule(fleet=fleets, resting=st.integers(0, 2))
    def alarm_rings(self, fleet: frozenset[str], resting: int = 0) -> None:
        """Also at another time than was asked for, and while workers come and go."""
        self.wake_at_s = None
        self.fleet = fleet
        workers = tuple(sorted(fleet))
        self.feed(ev.DeadlinePassed(at_s=self.now_s, workers=workers, resting=resting))

    @rule(fleet=fleets)
    def round_is_committed(self, fleet: frozenset[str]) -> None:
        asked, self.to_commit = self.to_commit, None
        self.fleet = fleet
        if self.machine.phase is Phase.COMMITTING:
            assert asked is not None
            self.versions.append(list(asked.assignment_ids))
        version = len(self.versions)
        workers = tuple(sorted(fleet))
        self.feed(ev.RoundCommitted(at_s=self.now_s, version=version, digest="d", workers=workers))

    @rule()
    def coordinator_restarts(self) -> None:
        self.to_select = self.to_commit = self.wake_at_s = None
        self.folded.clear()
        self.feed(ev.RunResumed(at_s=self.now_s))
        self.feed(ev.FleetChanged(at_s=self.now_s, workers=self.fleet))

    @precondition(lambda self: len(self.journal) > 25)
    @rule()
    def operator_stops_the_run(self) -> None:
        self.feed(ev.StopRequested(at_s=self.now_s))

    @precondition(lambda self: len(self.journal) > 25)
    @rule()
    def driver_gives_up(self) -> None:
        self.broken = self.broken or self.machine.phase is not Phase.FINISHED
        self.feed(ev.RunBroken(at_s=self.now_s, code="NO_MODEL", reason="broken"))

    # What always holds

    @invariant()
    def versions_are_made_of_what_was_accepted_in_its_order(self) -> None:
        size = self.rounds.cohort
        for place, version in enumerate(self.versions):
            assert version == sorted(self.accepted[place * size : (place + 1) * size])

    @invariant()
    def nobody_waits_for_another(self) -> None:
        """Whoever is there and may train has an assignment, or a draw is asked for.

        During a commit too, but for the short time in which the new version may come, and where
        the next version has its updates already or an update could not count.
        """
        if self.machine.phase not in (Phase.TRAINING, Phase.COMMITTING) or self.to_select:
            return
        if self.machine.phase is Phase.COMMITTING:
            bound = self.asynchrony.max_staleness
            counting = self.machine.counting_round
            if (
                len(self.machine._buffer) >= 2 * self.rounds.cohort
                or counting > self.rounds.rounds
                or (bound is not None and counting - self.machine.round > bound)
            ):
                return
            if not self.machine._impatient:
                assert self.wake_at_s is None or self.wake_at_s <= self.committing_s + PATIENCE_S
                return
        limit = self.asynchrony.concurrency
        idle = self.machine._available - self.at_work - self.machine._resting
        assert not idle or len(self.at_work) == limit

    @invariant()
    def something_will_go_on(self) -> None:
        if self.machine.phase is not Phase.FINISHED:
            expected = (self.to_select, self.to_commit, self.wake_at_s)
            assert any(one is not None for one in expected), "nothing would ever happen again"

    @invariant()
    def replay_of_the_journal_gives_the_same_machine(self) -> None:
        if self.broken:  # not durable: the store's run record says it
            return
        again = self.new_machine()
        for event in self.journal:
            again.handle(event)
            again.validate()
        for name in ("phase", "round", "attempt", "draws", "slots", "deadline_s", "durations_s"):
            assert getattr(again, name) == getattr(self.machine, name), name
        assert again.open_rounds == self.machine.open_rounds
        assert again._buffer == self.machine._buffer
        assert again._resting == self.machine._resting
        assert again.cohort == self.machine.cohort

    def teardown(self) -> None:
        """However it stands: when time keeps passing, the run ends, once, for a stated reason."""
        if not hasattr(self, "machine"):
            return
        patience = 8 * self.rounds.rounds * (self.rounds.attempts + 2) * len(WORKERS)
        for _ in range(patience):
            if self.machine.phase is Phase.FINISHED:
                break
            if self.to_select is not None:
                self.cohort_is_drawn(0)
            elif self.to_commit is not None:
                self.round_is_committed(self.fleet)
            else:
                assert self.wake_at_s is not None
                self.now_s = max(self.now_s, self.wake_at_s)
                self.alarm_rings(self.fleet)
        assert self.finished == [self.machine.finish]
        outcome = self.finished[0].outcome
        assert outcome in ("completed", "failed", "stopped")
        assert (outcome == "failed") == bool(self.finished[0].code)
        assert (outcome == "completed") == (len(self.versions) == self.rounds.rounds)


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyHistory = AnyHistory.TestCase
