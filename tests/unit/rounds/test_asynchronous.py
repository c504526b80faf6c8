"""Each sentence of the asynchronous machine's docstring."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

from fedfleet.algorithms.base import Asynchrony
from fedfleet.errors import RecipeInvalid
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action, Work
from fedfleet.rounds.asynchronous import PATIENCE_S, RETRY_S, AsynchronousMachine
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.machine import Phase, RoundMachine
from fedfleet.rounds.machines import make_machine
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.config import EvaluationConfig

A = TypeVar("A")
D = 10.0


class Run:
    """A machine with a clock, a fleet and a driver that draws who comes first in the alphabet."""

    def __init__(
        self,
        *,
        rounds: int = 3,
        cohort: int = 2,
        attempts: int = 2,
        concurrency: int | None = None,
        max_staleness: int | None = None,
    ) -> None:
        self.machine = AsynchronousMachine(
            "r-1",
            RoundsConfig(rounds=rounds, cohort=cohort, attempts=attempts, deadline_s=D),
            EvaluationConfig(every=2),
            Asynchrony(concurrency, max_staleness),
        )
        self.at_s = 0.0
        self.workers: tuple[str, ...] = ()

    def tell(self, event: ev.Event) -> list[Action]:
        """What is asked for, draws included: they are answered at once."""
        actions = self.machine.handle(event)
        self.machine.validate()
        for action in list(actions):
            if isinstance(action, act.SelectCohort):
                chosen = action.candidates[: action.size]
                actions += self.tell(ev.CohortSelected(at_s=self.at_s, workers=chosen))
        return actions

    def start(self, *workers: str) -> list[Action]:
        return [*self.tell(ev.RunStarted(at_s=self.at_s)), *self.fleet(*workers)]

    def fleet(self, *workers: str) -> list[Action]:
        self.workers = workers
        return self.tell(ev.FleetChanged(at_s=self.at_s, workers=frozenset(workers)))

    def update(self, key: str) -> list[Action]:
        return self.tell(ev.UpdateAccepted(at_s=self.at_s, assignment_id=key, weight=1.0))

    def failure(self, key: str) -> list[Action]:
        return self.tell(
            ev.AssignmentFailed(at_s=self.at_s, assignment_id=key, code="DATA_EMPTY", reason="x")
        )

    def committed(self) -> list[Action]:
        version = self.machine.round
        return self.tell(
            ev.RoundCommitted(at_s=self.at_s, version=version, digest="d", workers=self.workers)
        )

    def deadline(self, resting: int = 0) -> list[Action]:
        self.at_s = max(self.at_s, self.machine.deadline_s)
        return self.tell(ev.DeadlinePassed(at_s=self.at_s, workers=self.workers, resting=resting))

    @property
    def at_work(self) -> dict[str, str]:
        """Open assignments by worker."""
        return {self.machine.slots[key].worker_id: key for key in self.machine.open(Work.TRAIN)}


def of(actions: list[Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def only(actions: list[Action], kind: type[A]) -> A:
    (found,) = of(actions, kind)
    return found


def sent(actions: list[Action]) -> list[str]:
    return [one.assignment_id for one in of(actions, act.SendAssignment)]


def key(worker: str, *, round: int = 1, draw: int = 1) -> str:
    return f"r-1/{round}/{draw}/train/{worker}"


# Places


def test_whoever_is_connected_trains_at_once() -> None:
    run = Run(cohort=2)

    first = run.start("a")
    second = run.fleet("a", "b")

    assert sent(first) == [key("a")]
    assert sent(second) == [key("b", draw=2)]
    assert run.machine.phase is Phase.TRAINING


def test_no_more_than_the_concurrency_train() -> None:
    run = Run(concurrency=2)

    assert sent(run.start("a", "b", "c")) == [key("a"), key("b")]
    assert sent(run.fleet("a", "b", "c", "d")) == []


def test_idle_worker_that_has_not_trained_this_version_goes_first() -> None:
    run = Run(cohort=5, concurrency=3)
    run.start("a", "b", "z")
    run.machine.awaiting_cohort = True  # a draw is out while two become free
    run.update(key("a"))
    run.update(key("b"))
    run.machine.awaiting_cohort = False

    draws = of(run.fleet("a", "b", "c", "z"), act.SelectCohort)

    assert [(draw.candidates, draw.size) for draw in draws] == [(("c",), 1), (("a", "b"), 1)]


def test_freed_place_is_filled_by_one_who_has_not_trained_this_version() -> None:
    run = Run(cohort=3, concurrency=2)
    run.start("a", "b", "c")

    assert sent(run.update(key("a"))) == [key("c", draw=2)]
    again = run.update(key("b"))

    # All have trained it: the first of those that are idle gets it again, with another seed.
    assert sent(again) == [key("a", draw=3)]
    assert only(again, act.SendAssignment).seed_labels == ("train", 1, "a", 1)


def test_assignments_of_a_version_have_the_seeds_of_a_synchronous_round() -> None:
    run = Run(cohort=2)

    first, second = of(run.start("a", "b"), act.SendAssignment)

    assert (first.seed_labels, second.seed_labels) == (("train", 1, "a"), ("train", 1, "b"))


# No barrier


def test_full_buffer_closes_the_round_while_others_train_on() -> None:
    run = Run(cohort=2)
    run.start("a", "b", "slow")
    run.update(key("a"))

    closing = run.update(key("b"))

    assert only(closing, act.Aggregate) == act.Aggregate(
        round=1, assignment_ids=(key("a"), key("b")), evaluate=False
    )
    assert of(closing, act.CancelAssignment) == []
    assert "slow" in run.at_work


def test_who_delivered_gets_the_newest_version_whatever_the_others_do() -> None:
    run = Run(cohort=2)
    run.start("a", "b", "slow")
    run.update(key("a"))
    run.update(key("b"))

    begun = run.committed()

    assert sent(begun) == [key("b", round=2)]
    assert only(begun, act.CloseRound).round == 1
    assert run.at_work == {
        "a": key("a", draw=2),
        "b": key("b", round=2),
        "slow": key("slow"),
    }


def test_update_of_an_earlier_version_counts_with_its_staleness() -> None:
    run = Run(cohort=1)
    run.start("a", "slow")
    run.update(key("a"))
    run.committed()
    run.update(key("a", round=2))
    run.committed()

    closing = run.update(key("slow"))

    assert only(closing, act.FoldUpdate).assignment_id == key("slow")
    assert run.machine.staleness(key("slow")) == 2
    assert run.machine.round_of(key("slow")) == 1
    assert only(closing, act.Aggregate).assignment_ids == (key("slow"),)
    assert run.machine.durations_s == {"slow": 0.0}


def test_updates_that_come_during_a_commit_count_for_the_next_versions() -> None:
    run = Run(cohort=1, rounds=4)
    run.start("a", "b", "c")
    run.update(key("a"))

    assert of(run.update(key("b")), act.FoldUpdate) == []
    assert run.machine.counting_round == 3
    assert run.update(key("c")) == []
    begun = run.committed()

    assert of(begun, act.FoldUpdate) == [act.FoldUpdate(assignment_id=key("b"))]
    assert only(begun, act.Aggregate).assignment_ids == (key("b"),)
    assert only(run.committed(), act.Aggregate).assignment_ids == (key("c"),)
    assert run.machine.open_rounds == {1, 3}


def test_draw_that_comes_during_a_commit_is_made_anew_after_it() -> None:
    run = Run(cohort=1)
    machine = run.machine
    run.start("a", "b")
    machine.handle(ev.FleetChanged(at_s=0.0, workers=frozenset("abc")))
    machine.handle(ev.UpdateAccepted(at_s=0.0, assignment_id=key("a"), weight=1.0))

    assert sent(machine.handle(ev.CohortSelected(at_s=0.0, workers=("c",)))) == []
    run.workers = ("a", "b", "c")
    assert sent(run.committed()) == [key("a", round=2), key("c", round=2)]


def test_run_ends_with_its_last_version_and_nothing_is_left_over() -> None:
    run = Run(cohort=1, rounds=2)
    run.start("a", "b", "c")
    run.update(key("a"))
    run.committed()

    last = run.update(key("b"))

    assert [one.worker_id for one in of(last, act.CancelAssignment)] == ["c", "a"]
    assert only(last, act.Aggregate).evaluate
    assert not run.machine.is_open(key("c"))
    assert run.update(key("c")) == []
    assert run.committed() == [act.CloseRound(round=2), act.FinishRun(outcome="completed")]


def in_a_commit(run: Run, *workers: str) -> None:
    """Their updates are there, and their version has been in the making for too long."""
    for worker in workers:
        run.update(run.at_work[worker])
    assert run.machine.phase is Phase.COMMITTING
    run.at_s += PATIENCE_S


def test_place_that_is_free_in_a_commit_is_filled_when_that_takes_too_long() -> None:
    run = Run(cohort=2, rounds=5)
    run.start("a", "b", "slow")
    in_a_commit(run, "a", "b")

    assert run.machine.deadline_s == PATIENCE_S
    filled = only(run.deadline(), act.SendAssignment)

    # From the version before: there is no other. "a" has it for the second time already.
    assert (filled.assignment_id, filled.round) == (key("b", draw=3), 1)
    assert sent(run.update(key("slow"))) == [key("slow", draw=4)]
    run.committed()
    assert set(run.at_work) == {"a", "b", "slow"}


def test_place_that_is_free_in_a_short_commit_gets_its_version() -> None:
    run = Run(cohort=1, rounds=5)
    run.start("a")
    run.update(key("a"))
    run.at_s = PATIENCE_S / 2

    assert sent(run.committed()) == [key("a", round=2)]


def test_places_wait_for_the_commit_once_the_next_version_is_complete_too() -> None:
    run = Run(cohort=1, rounds=5)
    run.start("a", "b")
    in_a_commit(run, "a")
    assert sent(run.deadline()) == [key("a", draw=2)]

    assert sent(run.update(key("b"))) == []
    assert run.machine.deadline_s == run.machine.slots[key("a", draw=2)].deadline_s


@pytest.mark.parametrize("more", [{"max_staleness": 0}, {"rounds": 1}])
def test_place_is_not_filled_in_a_commit_for_an_update_that_could_not_count(
    more: dict[str, int],
) -> None:
    run = Run(cohort=1, **more)
    run.start("a")
    in_a_commit(run, "a")

    assert sent(run.deadline()) == []


def test_history_is_told_of_all_who_were_asked_or_late_since_the_version_before() -> None:
    run = Run(cohort=1, rounds=5, attempts=3)
    run.start("a", "slow")
    run.at_s = 1.0
    in_a_commit(run, "a")
    run.deadline()  # "a" begins anew
    assert (run.machine.cohort, run.machine.durations_s) == (("a", "slow"), {"a": 1.0})
    run.committed()
    assert run.machine.cohort == ("a",)
    run.deadline()
    assert run.at_s == D
    run.update(run.at_work["a"])

    assert run.machine.durations_s == {"slow": D, "a": D - 1.0 - PATIENCE_S}
    run.committed()
    assert run.machine.durations_s == {}


# Bounded staleness


def test_assignment_is_given_up_once_its_update_would_be_too_stale() -> None:
    run = Run(cohort=1, rounds=9, max_staleness=1)
    run.start("a", "slow")
    run.update(key("a"))
    run.committed()
    assert run.machine.is_open(key("slow"))

    closing = run.update(key("a", round=2))

    assert only(closing, act.CancelAssignment).assignment_id == key("slow")
    assert run.update(key("slow")) == []
    # It gets the newest version as soon as there is one.
    assert sent(run.committed()) == [key("a", round=3), key("slow", round=3)]


def test_update_that_became_too_stale_during_a_commit_is_not_taken() -> None:
    run = Run(cohort=1, rounds=9, max_staleness=1)
    run.start("a", "b", "slow")
    run.update(key("a"))

    cancelled = run.update(key("b"))

    assert only(cancelled, act.CancelAssignment).assignment_id == key("slow")
    assert run.machine.staleness(key("b")) == 1


# What goes wrong


def test_late_assignment_is_cancelled_and_its_place_filled() -> None:
    run = Run(concurrency=1)
    run.start("a", "b")
    run.at_s = D - 1
    run.fleet("a", "b", "c")

    actions = run.deadline()

    assert only(actions, act.CancelAssignment).assignment_id == key("a")
    assert sent(actions) == [key("b", draw=2)]
    assert run.machine.slots[key("b", draw=2)].deadline_s == 2 * D


def test_each_assignment_has_a_deadline_of_its_own() -> None:
    run = Run(cohort=3)
    run.start("a")
    run.at_s = 6.0
    run.fleet("a", "b")
    run.at_s = 8.0
    run.update(key("b", draw=2))

    actions = run.deadline()

    assert run.at_s == D
    assert [one.worker_id for one in of(actions, act.CancelAssignment)] == ["a"]
    # There was an update, so no attempt is over.
    assert run.machine.attempt == 1


def test_worker_that_failed_rests_until_the_next_version() -> None:
    run = Run(cohort=1)
    run.start("a", "bad")

    assert sent(run.failure(key("bad"))) == []
    run.update(key("a"))

    assert sent(run.committed()) == [key("a", round=2), key("bad", round=2)]


def test_worker_that_failed_is_asked_again_after_a_deadline_without_an_update() -> None:
    run = Run(attempts=3)
    run.start("bad")
    run.failure(key("bad"))

    assert sent(run.deadline()) == [key("bad", draw=2)]
    assert (run.at_s, run.machine.attempt) == (RETRY_S, 1)
    run.at_s = D - 1  # it is at it for that long, and fails again
    run.failure(key("bad", draw=2))

    assert sent(run.deadline()) == [key("bad", draw=3)]
    assert (run.at_s, run.machine.attempt) == (D, 2)


def test_all_who_failed_at_the_same_are_asked_again_after_a_while_and_then_a_longer_one() -> None:
    run = Run()
    run.start("a", "b")
    times_s = []
    while run.at_s < D / 2:
        for one in list(run.at_work.values()):
            run.failure(one)
        assert run.at_work == {}
        run.deadline()
        times_s.append(run.at_s)
        assert set(run.at_work) == {"a", "b"}

    assert times_s == [RETRY_S, 3 * RETRY_S, 7 * RETRY_S]
    assert run.machine.attempt == 1
    run.update(run.at_work["a"])
    run.failure(run.at_work["b"])
    assert "b" not in run.at_work, "others are at work"


def test_no_attempt_is_over_while_somebody_is_at_work_and_in_time() -> None:
    run = Run(cohort=1, attempts=1)
    run.start()
    run.at_s = D - 1
    run.fleet("a")

    assert run.machine.deadline_s == 2 * D - 1
    run.at_s = 2 * D - 2
    assert only(run.update(run.at_work["a"]), act.Aggregate).round == 1


def test_attempt_is_over_when_the_last_who_was_at_work_is_late() -> None:
    run = Run(attempts=1)
    run.start()
    run.at_s = D - 1
    run.fleet("a")

    assert only(run.deadline(), act.FinishRun).code == "QUORUM_NOT_MET"


def test_deadlines_while_all_rest_are_no_attempts() -> None:
    run = Run(attempts=1)
    run.start("a")
    run.failure(run.at_work["a"])
    run.fleet()
    run.deadline(resting=2)  # that it may be asked again

    for _ in range(3):
        assert only(run.deadline(resting=2), act.WakeAt).at_s == run.at_s + D
        assert (run.machine.attempt, run.machine.put_off_for) == (1, 2)

    # It failed as it went to rest, and is asked at once when it comes back.
    run.fleet("a")
    assert set(run.at_work) == {"a"}
    assert only(run.deadline(resting=2), act.FinishRun).code == "QUORUM_NOT_MET"


def test_run_fails_after_its_attempts_and_says_the_numbers() -> None:
    run = Run(cohort=3, attempts=2)
    run.start("a", "b")
    run.update(key("a"))
    run.failure(key("b"))
    run.deadline()

    finish = only(run.deadline(), act.FinishRun)

    assert (finish.outcome, finish.code) == ("failed", "QUORUM_NOT_MET")
    assert finish.reason == (
        "round 1: 1 of 3 updates and 2 workers ready after 2 deadlines without an update; "
        "last failure: b: DATA_EMPTY: x"
    )


def test_run_without_workers_fails_too() -> None:
    run = Run(attempts=1)
    run.start()

    assert only(run.deadline(), act.FinishRun).reason.startswith("round 1: 0 of 2 updates and 0 w")


def test_worker_that_comes_back_gets_its_assignment_of_an_older_version_again() -> None:
    run = Run(cohort=1)
    run.start("a", "b")
    run.update(key("a"))
    run.committed()
    run.fleet("a")

    (again,) = of(run.fleet("a", "b"), act.SendAssignment)

    assert (again.assignment_id, again.round) == (key("b"), 1)


def test_operator_stops_the_run() -> None:
    run = Run()
    run.start("a")

    actions = run.tell(ev.StopRequested(at_s=1.0))

    assert only(actions, act.CancelAssignment).worker_id == "a"
    assert run.machine.finish == act.FinishRun(outcome="stopped", reason="stopped by an operator")


# After a restart


def test_resumed_run_folds_what_was_accepted_and_waits_for_the_others_anew() -> None:
    run = Run(cohort=2)
    run.start("a", "b")
    run.update(key("a"))
    run.at_s = 7.0

    actions = run.tell(ev.RunResumed(at_s=7.0))
    again = run.fleet("b")

    assert actions == [act.FoldUpdate(assignment_id=key("a")), act.WakeAt(at_s=7.0 + D)]
    assert [one.worker_id for one in of(again, act.SendAssignment)] == ["b"]
    assert only(again, act.SendAssignment).deadline_s == 7.0 + D


def test_run_resumed_in_a_commit_makes_the_version_again() -> None:
    run = Run(cohort=1)
    run.start("a", "b")
    run.update(key("a"))
    run.update(key("b"))

    actions = run.tell(ev.RunResumed(at_s=1.0))

    assert of(actions, act.FoldUpdate) == [act.FoldUpdate(assignment_id=key("a"))]
    assert only(actions, act.Aggregate).assignment_ids == (key("a"),)


# Recipes

RECIPE = """
name = "x"
[model]
architecture = "mlp"
hidden = [4]
[data]
dataset = "digits"
partition = "iid"
workers = 4
[rounds]
rounds = 2
cohort = {cohort}
{rounds}
[algorithm]
name = "{algorithm}"
[evaluation]
workers = "{workers}"
"""


def recipe(
    rounds: str = "", algorithm: str = "fedbuff", workers: str = "none", cohort: int = 2
) -> Any:
    return parse_recipe(
        RECIPE.format(rounds=rounds, algorithm=algorithm, workers=workers, cohort=cohort)
    )


@pytest.mark.parametrize(
    ("algorithm", "machine"),
    [("fedavg", RoundMachine), ("fedbuff", AsynchronousMachine), ("fedasync", AsynchronousMachine)],
)
def test_algorithm_says_which_machine_drives_its_run(algorithm: str, machine: type) -> None:
    assert type(make_machine("r-1", recipe(algorithm=algorithm))) is machine


def test_version_may_be_made_of_more_updates_than_there_are_workers() -> None:
    assert recipe(cohort=5).rounds.cohort == 5
    with pytest.raises(RecipeInvalid, match=r"data\.workers = 4"):
        recipe(algorithm="fedavg", cohort=5)


@pytest.mark.parametrize(
    "asked",
    [
        {"rounds": "quorum = 1"},
        {"rounds": "over_select = 1"},
        {"rounds": "min_workers = 3"},
        {"rounds": 'mode = "semi-synchronous"'},
        {"rounds": 'selection = "power-of-choice"\ncandidates = 3\nloss = "full"'},
        {"workers": "all"},
    ],
)
def test_recipe_that_makes_workers_wait_for_each_other_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(RecipeInvalid, match=r'algorithm.name = "fedbuff": (rounds|evaluation)\.'):
        recipe(**asked)

    assert recipe(algorithm="fedavg", **asked).rounds.rounds == 2
