"""Each arrow of the picture in the machine's docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import pytest

from fedfleet.algorithms.plan import Chain, Plan
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action, Work
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.machine import Phase, RoundMachine
from fedfleet.training.config import EvaluationConfig

A = TypeVar("A")
D = 10.0  # the deadline in seconds


class Run:
    """A machine with a clock and a fleet, told what happens in few words."""

    def __init__(
        self,
        *,
        rounds: int = 1,
        cohort: int = 2,
        over_select: int = 0,
        quorum: int | None = None,
        min_workers: int | None = None,
        attempts: int = 3,
        evaluate: Literal["all", "cohort", "none"] = "none",
        every: int = 1,
    ) -> None:
        self.machine = RoundMachine(
            "r-1",
            RoundsConfig(
                rounds=rounds,
                cohort=cohort,
                over_select=over_select,
                quorum=quorum,
                min_workers=min_workers,
                attempts=attempts,
                deadline_s=D,
            ),
            EvaluationConfig(workers=evaluate, every=every),
        )
        self.at_s = 0.0
        self.workers: tuple[str, ...] = ()

    def tell(self, event: ev.Event) -> list[Action]:
        actions = self.machine.handle(event)
        self.machine.validate()
        return actions

    def start(self, *workers: str) -> list[Action]:
        return [*self.tell(ev.RunStarted(at_s=self.at_s)), *self.fleet(*workers)]

    def fleet(self, *workers: str) -> list[Action]:
        self.workers = workers
        return self.tell(ev.FleetChanged(at_s=self.at_s, workers=frozenset(workers)))

    def drawn(self, *workers: str) -> list[Action]:
        return self.tell(ev.CohortSelected(at_s=self.at_s, workers=workers))

    def planned(self, *chains: Chain, updates: int | None = None) -> list[Action]:
        return self.tell(ev.cohort_selected(Plan(chains, updates), self.at_s))

    def update(self, assignment_id: str) -> list[Action]:
        event = ev.UpdateAccepted(at_s=self.at_s, assignment_id=assignment_id, weight=1.0)
        return self.tell(event)

    def evaluation(self, assignment_id: str) -> list[Action]:
        return self.tell(
            ev.EvaluationReported(at_s=self.at_s, assignment_id=assignment_id, evaluation={})
        )

    def failure(self, assignment_id: str, code: str = "DATA_EMPTY") -> list[Action]:
        return self.tell(
            ev.AssignmentFailed(
                at_s=self.at_s, assignment_id=assignment_id, code=code, reason="no image found"
            )
        )

    def deadline(self, resting: int = 0) -> list[Action]:
        self.at_s = self.machine.deadline_s
        return self.tell(ev.DeadlinePassed(at_s=self.at_s, workers=self.workers, resting=resting))

    def committed(self) -> list[Action]:
        return self.tell(
            ev.RoundCommitted(at_s=self.at_s, version=1, digest="d", workers=self.workers)
        )


def only(actions: list[Action], kind: type[A]) -> A:
    (found,) = of(actions, kind)
    return found


def of(actions: list[Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def key(worker: str, *, round: int = 1, draw: int = 1, work: str = "train") -> str:
    return f"r-1/{round}/{draw}/{work}/{worker}"


# Selecting


def test_queued_run_waits_for_its_start() -> None:
    run = Run()

    assert run.fleet("a", "b") == []
    assert run.deadline() == []
    assert run.machine.phase is Phase.QUEUED


def test_start_sets_an_alarm_and_waits_for_enough_workers() -> None:
    run = Run(cohort=2, over_select=1)

    assert run.start("b") == [act.WakeAt(at_s=D)]
    assert run.fleet("b", "a") == []
    asked = only(run.fleet("b", "a", "c", "d"), act.SelectCohort)

    assert asked == act.SelectCohort(round=1, candidates=("a", "b", "c", "d"), size=3, draw=1)


def test_selection_is_asked_for_once() -> None:
    run = Run()
    run.start("a", "b")

    assert run.fleet("a", "b", "c") == []


def test_second_start_changes_nothing() -> None:
    run = Run()
    run.start("a", "b")

    assert run.tell(ev.RunStarted(at_s=5.0)) == []
    assert run.machine.deadline_s == D


def test_selection_waits_for_min_workers() -> None:
    run = Run(cohort=2, min_workers=4)

    assert of(run.start("a", "b", "c"), act.SelectCohort) == []
    assert only(run.fleet("a", "b", "c", "d"), act.SelectCohort).size == 2


def test_selection_at_the_deadline_is_content_with_a_quorum() -> None:
    run = Run(cohort=4, quorum=2)
    run.start("a", "b", "c")

    asked = only(run.deadline(), act.SelectCohort)

    assert asked.size == 3
    assert asked.candidates == ("a", "b", "c")


def test_cohort_gets_its_assignments_and_a_new_deadline() -> None:
    run = Run()
    run.start("a", "b")
    run.at_s = 4.0

    actions = run.drawn("a", "b")

    assert only(actions, act.WakeAt).at_s == 4.0 + D
    assert of(actions, act.SendAssignment) == [
        act.SendAssignment(
            assignment_id=key(w), worker_id=w, round=1, work=Work.TRAIN, deadline_s=4.0 + D
        )
        for w in ("a", "b")
    ]
    assert run.machine.phase is Phase.TRAINING
    assert run.machine.cohort == ("a", "b")


# Training


def training(**changes: object) -> Run:
    run = Run(**changes)  # type: ignore[arg-type]  # the constructor's own arguments
    run.start("a", "b", "c", "d")
    missing = run.machine._rounds.cohort + run.machine._rounds.over_select
    run.drawn(*"abcd"[:missing])
    return run


def test_round_closes_at_once_when_the_cohort_is_complete() -> None:
    run = training()

    assert run.update(key("b")) == [act.FoldUpdate(assignment_id=key("b"))]
    actions = run.update(key("a"))

    assert actions == [
        act.FoldUpdate(assignment_id=key("a")),
        act.Aggregate(round=1, assignment_ids=(key("a"), key("b")), evaluate=True),
    ]
    assert run.machine.phase is Phase.COMMITTING


def test_over_selected_worker_that_is_late_is_cancelled() -> None:
    run = training(cohort=2, over_select=1)
    run.update(key("a"))

    actions = run.update(key("c"))

    assert only(actions, act.CancelAssignment).assignment_id == key("b")
    assert only(actions, act.Aggregate).assignment_ids == (key("a"), key("c"))
    assert run.update(key("b")) == []
    assert not run.machine.is_open(key("b"))


def test_deadline_with_a_quorum_closes_the_round() -> None:
    run = training(cohort=3, quorum=2)
    run.update(key("a"))
    run.update(key("c"))

    actions = run.deadline()

    assert only(actions, act.CancelAssignment).worker_id == "b"
    assert only(actions, act.Aggregate).assignment_ids == (key("a"), key("c"))


def test_quorum_does_not_close_a_round_before_its_deadline() -> None:
    run = training(cohort=3, quorum=1)

    run.update(key("a"))

    assert run.machine.phase is Phase.TRAINING


def test_failures_of_all_others_close_a_round_with_a_quorum_without_waiting() -> None:
    run = training(cohort=2, quorum=1)
    run.update(key("a"))

    assert only(run.failure(key("b")), act.Aggregate).assignment_ids == (key("a"),)


def test_replacements_are_drawn_only_for_what_is_missing() -> None:
    run = training(cohort=3)
    run.update(key("a"))
    run.update(key("b"))

    actions = run.deadline()

    assert only(actions, act.CancelAssignment).worker_id == "c"
    assert only(actions, act.WakeAt).at_s == 2 * D
    assert only(actions, act.SelectCohort) == act.SelectCohort(
        round=1, candidates=("d",), size=1, draw=2
    )
    assert run.machine.attempt == 2

    run.drawn("d")
    actions = run.update(key("d", draw=2))

    assert only(actions, act.Aggregate).assignment_ids == (key("a"), key("b"), key("d", draw=2))


def test_worker_that_failed_is_asked_again_only_when_others_do_not_suffice() -> None:
    run = training(cohort=2, attempts=5)

    run.failure(key("a"))
    first = only(run.failure(key("b")), act.SelectCohort).candidates
    run.drawn("c", "d")
    run.failure(key("c", draw=2))
    second = only(run.failure(key("d", draw=2)), act.SelectCohort).candidates

    assert first == ("c", "d")
    assert second == ("a", "b", "c", "d")


def test_late_update_of_an_earlier_attempt_is_not_counted() -> None:
    run = training(cohort=2)
    run.update(key("a"))
    run.deadline()
    run.drawn("b")

    assert run.update(key("b")) == []
    assert only(run.update(key("b", draw=2)), act.Aggregate)


def test_update_counts_once() -> None:
    run = training()
    run.update(key("a"))

    assert run.update(key("a")) == []
    assert run.machine.done(Work.TRAIN) == (key("a"),)


def test_update_of_an_unknown_assignment_is_not_counted() -> None:
    run = training()

    assert run.update(key("z")) == []
    assert run.evaluation(key("a")) == []
    assert run.failure(key("z")) == []
    assert run.machine.done(Work.TRAIN) == ()


def test_alarm_of_an_earlier_wait_only_renews_the_alarm() -> None:
    run = training()
    run.at_s = 3.0

    actions = run.tell(ev.DeadlinePassed(at_s=3.0, workers=("a",)))

    assert actions == [act.WakeAt(at_s=run.machine.deadline_s)]
    assert run.machine.phase is Phase.TRAINING


def test_worker_that_comes_back_gets_its_assignment_again() -> None:
    run = training()
    run.update(key("a"))
    run.fleet("c", "d")
    run.at_s = 2.0

    actions = run.fleet("a", "b", "c", "d")

    assert actions == [
        act.SendAssignment(
            assignment_id=key("b"), worker_id="b", round=1, work=Work.TRAIN, deadline_s=D
        )
    ]


# One worker fewer than the quorum


def test_run_without_enough_workers_fails_after_its_attempts_and_says_the_numbers() -> None:
    run = Run(cohort=3, quorum=2, attempts=2)
    run.start("a")

    assert of(run.deadline(), act.FinishRun) == []
    finish = only(run.deadline(), act.FinishRun)

    assert (finish.outcome, finish.code) == ("failed", "QUORUM_NOT_MET")
    assert finish.reason == ("round 1: 0 of 2 updates and 1 workers ready after 2 attempts")
    assert run.machine.finish == finish
    assert run.machine.phase is Phase.FINISHED


def test_run_whose_workers_fail_ends_with_the_last_failure() -> None:
    run = training(cohort=2, attempts=1)
    run.update(key("a"))

    finish = only(run.failure(key("b")), act.FinishRun)

    assert finish.code == "QUORUM_NOT_MET"
    assert finish.reason.startswith("round 1: 1 of 2 updates and 4 workers ready after 1 att")
    assert finish.reason.endswith("last failure: b: DATA_EMPTY: no image found")


def test_failure_of_a_closed_assignment_is_not_the_last_failure() -> None:
    run = training(cohort=2, attempts=2)
    run.deadline()
    run.drawn("c", "d")
    run.failure(key("a"), code="LATE")

    assert "LATE" not in only(run.deadline(), act.FinishRun).reason


def test_deadlines_while_others_rest_are_no_attempts() -> None:
    run = Run(cohort=2, attempts=1)
    run.start("a")

    for resting in (1, 3):
        actions = run.deadline(resting=resting)
        assert only(actions, act.WakeAt).at_s == run.at_s + D
        assert (run.machine.attempt, run.machine.put_off_for) == (1, resting)

    assert only(run.fleet("a", "b"), act.SelectCohort).candidates == ("a", "b")


def test_deadlines_are_attempts_again_once_nobody_rests() -> None:
    run = Run(cohort=2, attempts=1)
    run.start("a")
    run.deadline(resting=1)

    assert only(run.deadline(), act.FinishRun).code == "QUORUM_NOT_MET"
    assert run.machine.put_off_for == 0


def test_deadline_of_workers_that_were_asked_is_an_attempt_though_others_rest() -> None:
    run = training(cohort=2, attempts=1)

    assert only(run.deadline(resting=5), act.FinishRun).code == "QUORUM_NOT_MET"


def test_workers_that_come_during_the_last_attempt_save_the_run() -> None:
    run = Run(cohort=2, attempts=2)
    run.start("a")
    run.deadline()

    assert only(run.fleet("a", "b"), act.SelectCohort).draw == 1
    run.drawn("a", "b")
    run.update(key("a"))
    assert only(run.update(key("b")), act.Aggregate)


# Committing, evaluating, closing


def trained(**changes: object) -> Run:
    run = training(**changes)
    run.update(key("a"))
    run.update(key("b"))
    return run


def test_commit_without_workers_evaluation_closes_the_round_and_begins_the_next() -> None:
    run = trained(rounds=2)
    run.at_s = 5.0

    actions = run.committed()

    assert actions[0] == act.CloseRound(round=1)
    assert only(actions, act.WakeAt).at_s == 5.0 + D
    assert only(actions, act.SelectCohort) == act.SelectCohort(
        round=2, candidates=("a", "b", "c", "d"), size=2, draw=1
    )
    assert (run.machine.round, run.machine.attempt, run.machine.slots) == (2, 1, {})


def test_commit_of_the_last_round_completes_the_run() -> None:
    run = trained(rounds=1)

    assert run.committed() == [act.CloseRound(round=1), act.FinishRun(outcome="completed")]
    assert run.fleet("a") == []


def test_commit_is_taken_once() -> None:
    run = trained(rounds=2)
    run.committed()

    assert run.committed() == []
    assert run.machine.round == 2


def test_aggregate_is_evaluated_when_due_and_in_the_last_round() -> None:
    run = training(rounds=3, every=2)
    due = []
    for round in (1, 2, 3):
        for worker in ("a", "b"):
            actions = run.update(key(worker, round=round))
        due.append(only(actions, act.Aggregate).evaluate)
        run.committed()
        run.drawn("a", "b")

    assert due == [False, True, True]


@pytest.mark.parametrize(("who", "expected"), [("all", "abcd"), ("cohort", "ab")])
def test_workers_evaluate_the_committed_version(
    who: Literal["all", "cohort"], expected: str
) -> None:
    run = trained(evaluate=who)

    sent = of(run.committed(), act.SendAssignment)

    assert [s.worker_id for s in sent] == list(expected)
    assert {s.work for s in sent} == {Work.EVALUATE}
    assert sent[0].assignment_id == key("a", work="evaluate")
    assert run.machine.phase is Phase.EVALUATING


def test_round_closes_when_every_evaluation_is_in_or_failed() -> None:
    run = trained(evaluate="cohort")
    run.committed()

    assert run.evaluation(key("a", work="evaluate")) == []
    actions = run.failure(key("b", work="evaluate"))

    assert actions == [act.CloseRound(round=1), act.FinishRun(outcome="completed")]


def test_missing_evaluations_cost_a_deadline_and_no_more() -> None:
    run = trained(evaluate="cohort", attempts=1)
    run.committed()
    run.evaluation(key("a", work="evaluate"))

    actions = run.deadline()

    assert [a.worker_id for a in of(actions, act.CancelAssignment)] == ["b"]
    assert only(actions, act.FinishRun).outcome == "completed"


def test_update_for_an_evaluate_assignment_never_reaches_the_sum() -> None:
    run = trained(evaluate="cohort")
    run.committed()

    assert run.update(key("a", work="evaluate")) == []
    assert run.machine.is_open(key("a", work="evaluate"))
    assert not run.machine.is_open(key("a", work="evaluate"), Work.TRAIN)


def test_nobody_left_to_evaluate_closes_the_round() -> None:
    run = trained(evaluate="cohort")
    run.fleet("c", "d")

    assert only(run.committed(), act.CloseRound)


# The end


@pytest.mark.parametrize("phase", ["queued", "selecting", "training", "committing", "evaluating"])
def test_run_can_be_stopped_in_every_phase(phase: str) -> None:
    made: dict[str, Callable[[], Run]] = {
        "queued": Run,
        "selecting": Run,
        "training": training,
        "committing": trained,
        "evaluating": lambda: trained(evaluate="all"),
    }
    run = made[phase]()
    if phase == "selecting":
        run.start()
    if phase == "evaluating":
        run.committed()
    assert run.machine.phase.value == phase

    actions = run.tell(ev.StopRequested(at_s=1.0))

    assert only(actions, act.FinishRun).outcome == "stopped"
    busy = {"training": 2, "evaluating": 4}.get(phase, 0)
    assert len(of(actions, act.CancelAssignment)) == busy
    assert run.tell(ev.StopRequested(at_s=2.0)) == []


def test_broken_driver_fails_the_run_with_its_code() -> None:
    run = trained()

    actions = run.tell(ev.RunBroken(at_s=1.0, code="DATA_MISSING", reason="no test split"))

    assert actions == [act.FinishRun(outcome="failed", code="DATA_MISSING", reason="no test split")]


# Coming back


def test_resumed_training_folds_again_and_sends_again_to_those_who_are_there() -> None:
    run = training()
    run.update(key("a"))
    run.at_s = 7.0

    actions = run.tell(ev.RunResumed(at_s=7.0))

    assert actions == [act.FoldUpdate(assignment_id=key("a")), act.WakeAt(at_s=7.0 + D)]
    assert [s.assignment_id for s in of(run.fleet("a", "b"), act.SendAssignment)] == [key("b")]
    assert only(run.update(key("b")), act.Aggregate)


def test_resumed_commit_folds_and_aggregates_again() -> None:
    run = trained()

    assert run.tell(ev.RunResumed(at_s=7.0)) == [
        act.FoldUpdate(assignment_id=key("a")),
        act.FoldUpdate(assignment_id=key("b")),
        act.Aggregate(round=1, assignment_ids=(key("a"), key("b")), evaluate=True),
    ]


def test_resumed_selection_asks_again() -> None:
    run = Run()
    run.start("a", "b")

    assert run.tell(ev.RunResumed(at_s=7.0)) == [act.WakeAt(at_s=7.0 + D)]
    assert only(run.fleet("a", "b"), act.SelectCohort).draw == 1


def test_resumed_evaluation_goes_on() -> None:
    run = trained(evaluate="cohort")
    run.committed()

    assert run.tell(ev.RunResumed(at_s=7.0)) == [act.WakeAt(at_s=7.0 + D)]
    assert len(of(run.fleet("a", "b"), act.SendAssignment)) == 2


def test_machine_can_begin_with_a_later_round() -> None:
    machine = RoundMachine(
        "r-1", RoundsConfig(rounds=5, cohort=1), EvaluationConfig(), first_round=4
    )

    machine.handle(ev.RunStarted(at_s=0.0))
    asked = machine.handle(ev.FleetChanged(at_s=0.0, workers=frozenset("a")))

    assert only(asked, act.SelectCohort).round == 4


# Chains


def chained(*chains: Chain, **settings: Any) -> tuple[Run, list[Action]]:
    """A run whose cohort was planned as chains."""
    run = Run(**{"cohort": 5, **settings})
    run.start("a", "b", "c", "d", "e")
    count = sum(len(chain.workers) for chain in chains)
    return run, run.planned(*chains, updates=count)


def places(actions: list[Action]) -> dict[str, tuple[tuple[str, ...], str]]:
    return {one.worker_id: (one.after, one.lane) for one in of(actions, act.SendAssignment)}


def test_first_of_each_chain_begins_from_its_lane() -> None:
    _, actions = chained(Chain(("b", "a")), Chain(("c", "d"), "7"))

    assert places(actions) == {"b": ((), ""), "c": ((), "7")}


def test_next_of_a_chain_starts_from_the_updates_before_it() -> None:
    run, _ = chained(Chain(("b", "a", "e"), "7"), Chain(("c",)))

    assert places(run.update(key("b"))) == {"a": ((key("b"),), "7")}
    assert places(run.update(key("a"))) == {"e": ((key("b"), key("a")), "7")}
    assert places(run.update(key("e"))) == {}
    assert only(run.update(key("c")), act.Aggregate).assignment_ids == tuple(
        key(name) for name in "abce"
    )


def test_worker_that_fails_is_left_out_of_its_chain() -> None:
    run, _ = chained(Chain(("b", "a", "e")), quorum=1)
    run.update(key("b"))

    assert places(run.failure(key("a"))) == {"e": ((key("b"),), "")}
    assert only(run.update(key("e")), act.Aggregate).assignment_ids == (key("b"), key("e"))


def test_chain_whose_first_fails_begins_with_the_next() -> None:
    run, _ = chained(Chain(("b", "a")), quorum=1)

    assert places(run.failure(key("b"))) == {"a": ((), "")}


def test_update_of_a_worker_whose_turn_has_not_come_is_not_taken() -> None:
    run, _ = chained(Chain(("b", "a")))

    assert not run.machine.is_open(key("a"))
    assert run.update(key("a")) == []
    assert run.failure(key("a")) == []
    assert places(run.update(key("b"))) == {"a": ((key("b"),), "")}


def test_turn_that_came_is_sent_again_to_a_worker_that_comes_back() -> None:
    run, _ = chained(Chain(("b", "a", "e")))
    run.update(key("b"))
    run.fleet("b", "c", "d", "e")

    assert places(run.fleet("a", "b", "c", "d", "e")) == {"a": ((key("b"),), "")}


def test_deadline_closes_the_chain_and_cancels_only_who_was_at_work() -> None:
    run, _ = chained(Chain(("b", "a", "e")), Chain(("c",)), quorum=1)
    run.update(key("b"))

    actions = run.deadline()

    assert {one.worker_id for one in of(actions, act.CancelAssignment)} == {"a", "c"}
    assert only(actions, act.Aggregate).assignment_ids == (key("b"),)


def test_plan_says_how_many_updates_complete_the_round() -> None:
    run = Run(cohort=5)
    run.start("a", "b", "c", "d", "e")
    run.planned(Chain(("a", "b")), Chain(("c",)), updates=2)
    run.update(key("c"))

    # The second update completes it; whose turn it would be next is not called.
    actions = run.update(key("a"))

    assert only(actions, act.Aggregate).assignment_ids == (key("a"), key("c"))
    assert places(actions) == {}


def test_plan_of_more_workers_than_the_cohort_is_complete_with_the_cohort() -> None:
    """The sum is made for as many; a worker may have joined that nobody counted with."""
    run = Run(cohort=2)
    run.start("a", "b", "c")
    run.planned(Chain(("a",)), Chain(("b",)), Chain(("c",)), updates=3)
    run.update(key("a"))

    assert only(run.update(key("b")), act.Aggregate)


def test_quorum_above_what_was_planned_is_lowered_to_it_for_that_round_alone() -> None:
    run, _ = chained(Chain(("b",)), rounds=2)

    assert only(run.update(key("b")), act.Aggregate)
    assert only(run.committed(), act.SelectCohort).size == 5


def test_failed_chains_are_made_up_for_by_another_attempt() -> None:
    run, _ = chained(Chain(("b", "a")), Chain(("c",)))
    run.update(key("b"))
    run.failure(key("a"))

    asked = only(run.failure(key("c")), act.SelectCohort)

    assert (asked.size, asked.candidates) == (2, ("d", "e"))
    run.planned(Chain(("d", "e")), updates=2)
    run.update(key("d", draw=2))
    assert only(run.update(key("e", draw=2)), act.Aggregate)


def test_resumed_chain_folds_what_there_is_and_calls_the_one_whose_turn_it_is() -> None:
    run, _ = chained(Chain(("b", "a", "e"), "7"))
    run.update(key("b"))

    assert of(run.tell(ev.RunResumed(at_s=7.0)), act.FoldUpdate) == [
        act.FoldUpdate(assignment_id=key("b"))
    ]
    assert places(run.fleet("a", "b", "c", "d", "e")) == {"a": ((key("b"),), "7")}
    assert run.machine.place(key("a")) == ("7", (key("b"),))
    assert run.machine.open(Work.TRAIN) == (key("a"),)
