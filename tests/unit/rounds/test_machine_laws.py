"""Laws of the round machine under any sequence of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from fedfleet.algorithms.plan import Chain, Plan
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.chance import shuffled
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.machine import Phase, RoundMachine
from fedfleet.training.config import EvaluationConfig

WORKERS = [f"w{i}" for i in range(6)]
DEADLINE_S = 10.0
# How far back among the assignments that were ever sent; the first one is a made-up id.
recent = st.integers(1, 12)
fleets = st.sets(st.sampled_from(WORKERS)).map(frozenset)


@st.composite
def round_configs(draw: Any) -> RoundsConfig:
    cohort = draw(st.integers(1, 3))
    return RoundsConfig(
        rounds=draw(st.integers(1, 3)),
        cohort=cohort,
        over_select=draw(st.integers(0, 2)),
        quorum=draw(st.none() | st.integers(1, cohort)),
        attempts=draw(st.integers(1, 3)),
        deadline_s=DEADLINE_S,
    )


evaluation_configs = st.builds(
    EvaluationConfig, every=st.integers(1, 2), workers=st.sampled_from(["all", "cohort", "none"])
)


class AnyHistory(RuleBasedStateMachine):
    """Plays the driver of one run, with everything that can go wrong around it."""

    @initialize(rounds=round_configs(), evaluation=evaluation_configs, queries=st.booleans())
    def start(self, rounds: RoundsConfig, evaluation: EvaluationConfig, queries: bool) -> None:
        self.rounds, self.evaluation, self.queries = rounds, evaluation, queries
        self.machine = RoundMachine("r-1", rounds, evaluation, queries=queries)
        self.now_s = 100.0
        self.fleet: frozenset[str] = frozenset()
        self.journal: list[tuple[int, ev.Event]] = []
        self.begun_at_s = {1: self.now_s}
        self.wake_at_s: float | None = None
        self.to_select: act.SelectCohort | None = None
        self.to_commit: act.Aggregate | None = None
        self.sent = ["nobody/knows/this"]
        self.folded: list[str] = []
        self.wanted = rounds.cohort
        # The assignments before each in its chain, and its lane.
        self.places: dict[str, tuple[tuple[str, ...], str]] = {}
        self.losses: dict[str, float] = {}
        self.counted: list[str] = []
        self.commits = 0
        self.closed: list[int] = []
        self.finished: list[act.FinishRun] = []
        self.broken = False
        self.feed(ev.RunStarted(at_s=self.now_s))

    # The driver

    def feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.DURABLE):
            fields = json.loads(json.dumps(ev.to_fields(event)))
            again = ev.from_fields(ev.kind_of(event), event.at_s, fields)
            assert again is not None
            self.journal.append((self.machine.round, again))
        over = self.machine.phase is Phase.FINISHED
        actions = self.machine.handle(event)
        self.machine.validate()
        assert not (over and actions), "asks for something after the end"
        self.begun_at_s.setdefault(self.machine.round, event.at_s)
        for action in actions:
            self.carry_out(action)

    def carry_out(self, action: act.Action) -> None:
        if isinstance(action, act.SelectCohort):
            assert self.to_select is None, "two draws at once"
            assert 0 < action.size <= len(action.candidates)
            assert list(action.candidates) == sorted(set(action.candidates))
            done = [self.machine.slots[key].worker_id for key in self.folded]
            assert not set(done) & set(action.candidates), "asks a worker that has delivered"
            assert action.size <= self.rounds.cohort + self.rounds.over_select - len(done)
            self.to_select = action
        elif isinstance(action, act.SendAssignment):
            assert self.machine.is_open(action.assignment_id, action.work)
            assert action.deadline_s > self.now_s
            before, lane = self.places.get(action.assignment_id, ((), ""))
            assert (action.after, action.lane) == (
                tuple(key for key in before if key in self.folded),
                lane,
            )
            self.sent.append(action.assignment_id)
        elif isinstance(action, act.CancelAssignment):
            assert not self.machine.is_open(action.assignment_id)
        elif isinstance(action, act.WakeAt):
            self.wake_at_s = action.at_s
        elif isinstance(action, act.FoldUpdate):
            assert action.assignment_id not in self.folded, "folded twice"
            assert action.assignment_id in self.machine.done(act.Work.TRAIN), "no train assignment"
            self.folded.append(action.assignment_id)
        elif isinstance(action, act.Aggregate):
            assert sorted(self.folded) == list(action.assignment_ids), "the sum holds others"
            needed = min(self.rounds.needed, self.wanted)
            assert needed <= len(action.assignment_ids) <= self.rounds.cohort
            self.to_commit = action
        elif isinstance(action, act.CloseRound):
            assert action.round == len(self.closed) + 1 == self.commits, "closed uncommitted"
            self.closed.append(action.round)
            self.folded.clear()
            self.wanted = self.rounds.cohort
        else:
            self.finished.append(action)

    # What can happen

    @rule(fleet=fleets)
    def workers_come_and_go(self, fleet: frozenset[str]) -> None:
        self.fleet = fleet
        self.feed(ev.FleetChanged(at_s=self.now_s, workers=fleet))

    @precondition(lambda self: self.to_select is not None)
    @rule(
        seed=st.integers(0, 2**63 - 1),
        lengths=st.lists(st.integers(1, 4), max_size=6),
        lanes=st.lists(st.sampled_from(["", "1", "2"]), min_size=6, max_size=6),
        updates=st.integers(0, 8),
        is_everybody=st.booleans(),
        lasts_s=st.sampled_from([0.0, 0.5, 3.0]),
    )
    def cohort_is_drawn(
        self,
        seed: int,
        lengths: Sequence[int] = (),
        lanes: Sequence[str] = ("",) * 6,
        updates: int = 0,
        is_everybody: bool = False,
        lasts_s: float = 0.0,
    ) -> None:
        asked, self.to_select = self.to_select, None
        assert asked is not None
        if asked.losses is not None:
            assert asked.losses == self.losses, "drawn by other losses than were reported"
        size = len(asked.candidates) if is_everybody else asked.size
        chosen = shuffled(asked.candidates, seed)[:size]
        corrections = {name: 0.5 + len(name) * (seed % 3) for name in chosen}
        self.losses.clear()
        plan = Plan(_cut(chosen, lengths, lanes), updates or None)
        is_late = self.machine.phase is not Phase.SELECTING
        if not is_late:
            self.note(plan, asked)
        self.feed(ev.cohort_selected(plan, self.now_s, corrections, lasts_s))
        if not is_late:
            assert self.machine.deadline_s == self.now_s + (lasts_s or DEADLINE_S)
        for worker in () if is_late else plan.workers:
            slot = self.machine.slots[f"r-1/{asked.round}/{asked.draw}/train/{worker}"]
            assert slot.correction == corrections[worker]

    def note(self, plan: Plan, asked: act.SelectCohort) -> None:
        """What the plan must lead to."""
        if plan.updates is not None:
            self.wanted = min(self.rounds.cohort, len(self.folded) + plan.updates)
        for chain in plan.chains:
            keys = [f"r-1/{asked.round}/{asked.draw}/train/{name}" for name in chain.workers]
            for place, key in enumerate(keys):
                self.places[key] = (tuple(keys[:place]), chain.lane)

    @precondition(lambda self: self.to_select is not None and self.to_select.losses is None)
    @rule(seed=st.integers(0, 2**63 - 1), count=st.integers(1, 4))
    def losses_are_asked_for(self, seed: int, count: int) -> None:
        asked, self.to_select = self.to_select, None
        assert asked is not None
        self.losses.clear()
        chosen = tuple(sorted(shuffled(asked.candidates, seed)[:count]))
        self.feed(ev.ProbesSelected(at_s=self.now_s, workers=chosen))

    @rule(back=recent)
    def loss_arrives(self, back: int) -> None:
        key = self.sent[-back:][0]
        if self.machine.is_open(key, act.Work.PROBE):
            self.losses[self.machine.slots[key].worker_id] = float(back)
        self.feed(ev.ProbeReported(at_s=self.now_s, assignment_id=key, loss=float(back)))

    @rule(back=recent)
    def update_arrives(self, back: int) -> None:
        key = self.sent[-back:][0]
        self.feed(ev.UpdateAccepted(at_s=self.now_s, assignment_id=key, weight=1.0))

    @rule(back=recent)
    def evaluation_arrives(self, back: int) -> None:
        key = self.sent[-back:][0]
        self.feed(ev.EvaluationReported(at_s=self.now_s, assignment_id=key, evaluation={"n": 1}))

    @rule(back=recent)
    def statistics_arrive(self, back: int) -> None:
        key = self.sent[-back:][0]
        if self.machine.is_open(key, act.Work.QUERY):
            assert self.queries
            assert self.machine.slots[key].lane == ""
        self.feed(ev.StatisticsReported(at_s=self.now_s, assignment_id=key, samples=3))

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
            event = ev.UpdateAccepted(at_s=self.now_s, assignment_id=open_ids[0], weight=1.0)
            self.feed(event)
            if self.machine.phase is Phase.PROBING:
                self.losses[self.machine.slots[open_ids[0]].worker_id] = 1.0
                self.feed(ev.ProbeReported(at_s=self.now_s, assignment_id=open_ids[0], loss=1.0))
            elif self.machine.phase is Phase.QUERYING:
                self.feed(
                    ev.StatisticsReported(at_s=self.now_s, assignment_id=open_ids[0], samples=3)
                )
            elif self.machine.phase is Phase.EVALUATING:
                self.feed(
                    ev.EvaluationReported(at_s=self.now_s, assignment_id=open_ids[0], evaluation={})
                )
        else:
            self.workers_come_and_go(self.fleet | others)

    @rule()
    def all_goes_well_again(self) -> None:
        self.all_goes_well(frozenset(WORKERS))

    @rule(seconds=st.floats(0, 1.5 * DEADLINE_S))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        if self.wake_at_s is not None and self.now_s >= self.wake_at_s:
            self.deadline_passes()

    @rule(fleet=fleets, resting=st.integers(0, 2))
    def deadline_passes_while_workers_come_and_go(
        self, fleet: frozenset[str], resting: int
    ) -> None:
        self.now_s = max(self.now_s, self.machine.deadline_s)
        self.alarm_of_another_time_rings(fleet, resting)

    @rule(fleet=fleets, resting=st.integers(0, 2))
    def alarm_of_another_time_rings(self, fleet: frozenset[str], resting: int) -> None:
        self.wake_at_s = None
        workers = tuple(sorted(fleet))
        self.feed(ev.DeadlinePassed(at_s=self.now_s, workers=workers, resting=resting))

    @rule(fleet=fleets)
    def round_is_committed(self, fleet: frozenset[str]) -> None:
        asked, self.to_commit = self.to_commit, None
        awaited = self.machine.phase is Phase.COMMITTING
        if awaited:
            assert asked is not None
            assert not set(asked.assignment_ids) & set(self.counted), "an update counts twice"
            self.counted += asked.assignment_ids
            self.commits += 1
        version = len(self.closed) + 1
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

    def deadline_passes(self) -> None:
        self.wake_at_s = None
        self.feed(ev.DeadlinePassed(at_s=self.now_s, workers=tuple(sorted(self.fleet))))

    # What always holds

    @invariant()
    def a_chain_has_one_at_work_at_most(self) -> None:
        slots = self.machine.slots
        for slot in slots.values():
            at_work = [key for key in slot.chain if self.machine.is_open(key)]
            assert len(at_work) <= 1
            assert slot.assignment_id in slot.chain

    @invariant()
    def something_will_go_on(self) -> None:
        if self.machine.phase is not Phase.FINISHED:
            expected = (self.to_select, self.to_commit, self.wake_at_s)
            assert any(one is not None for one in expected), "nothing would ever happen again"

    @invariant()
    def replay_of_the_journal_from_any_round_gives_the_same_machine(self) -> None:
        if self.broken:  # not durable: the store's run record says it
            return
        for first_round, at_s in self.begun_at_s.items():
            again = self.replayed(first_round, at_s)
            found = [(m.phase, m.round, m.attempt, m.draws, m.slots) for m in (again, self.machine)]
            assert found[0] == found[1]
            assert again.durations_s == self.machine.durations_s
            waits = (Phase.SELECTING, Phase.PROBING, Phase.TRAINING, Phase.EVALUATING)
            if self.machine.phase in waits:
                assert again.deadline_s == self.machine.deadline_s

    def replayed(self, first_round: int, at_s: float) -> RoundMachine:
        again = RoundMachine(
            "r-1",
            self.rounds,
            self.evaluation,
            first_round=first_round,
            queries=self.queries,
        )
        again.handle(ev.RunStarted(at_s=at_s))
        for round, event in self.journal:
            if round >= first_round:
                again.handle(event)
                again.validate()
        return again

    def teardown(self) -> None:
        """However it stands: when time keeps passing, the run ends, once, for a stated reason."""
        if not hasattr(self, "machine"):
            return
        patience = 4 * self.rounds.rounds * (self.rounds.attempts + 2)
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
                self.deadline_passes()
        assert self.finished == [self.machine.finish]
        outcome = self.finished[0].outcome
        assert outcome in ("completed", "failed", "stopped")
        assert (outcome == "failed") == bool(self.finished[0].code)
        assert (outcome == "completed") == (len(self.closed) == self.rounds.rounds)


def _cut(names: Sequence[str], lengths: Sequence[int], lanes: Sequence[str]) -> tuple[Chain, ...]:
    """Chains of these lengths, then of one worker each."""
    chains, left = [], list(names)
    for length in lengths:
        if left:
            chains.append(tuple(left[:length]))
            left = left[length:]
    chains += [(name,) for name in left]
    return tuple(Chain(chain, lane) for chain, lane in zip(chains, lanes, strict=False))


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyHistory = AnyHistory.TestCase
