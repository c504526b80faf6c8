"""The machine's way round a selection that asks workers for their losses first."""

from __future__ import annotations

from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.actions import Action, Work
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.machine import Phase, RoundMachine, Status
from fedfleet.training.config import EvaluationConfig

D = 10.0
FLEET = ("a", "b", "c", "d")


class Run:
    """A machine whose every cohort is preceded by probes."""

    def __init__(
        self, *, attempts: int = 3, tags: tuple[str, ...] = (), min_workers: int | None = None
    ) -> None:
        rounds = RoundsConfig(
            rounds=2,
            cohort=2,
            attempts=attempts,
            deadline_s=D,
            tags=tags,
            min_workers=min_workers,
        )
        self.machine = RoundMachine("r-1", rounds, EvaluationConfig())
        self.at_s = 0.0

    def tell(self, event: ev.Event) -> list[Action]:
        actions = self.machine.handle(event)
        self.machine.validate()
        return actions

    def start(self, workers: tuple[str, ...] = FLEET) -> list[Action]:
        self.tell(ev.RunStarted(at_s=0.0))
        return self.tell(ev.FleetChanged(at_s=0.0, workers=frozenset(workers)))

    def probe(self, *workers: str) -> list[Action]:
        return self.tell(ev.ProbesSelected(at_s=self.at_s, workers=workers))

    def loss(self, worker: str, loss: float, *, draw: int = 1) -> list[Action]:
        key = f"r-1/1/{draw}/probe/{worker}"
        return self.tell(ev.ProbeReported(at_s=self.at_s, assignment_id=key, loss=loss))

    def deadline(self, workers: tuple[str, ...] = FLEET) -> list[Action]:
        self.at_s = self.machine.deadline_s
        return self.tell(ev.DeadlinePassed(at_s=self.at_s, workers=workers))


def selects(actions: list[Action]) -> list[act.SelectCohort]:
    return [action for action in actions if isinstance(action, act.SelectCohort)]


def test_probes_go_to_whom_the_driver_names() -> None:
    run = Run()
    (asked,) = selects(run.start())

    actions = run.probe("a", "c", "d")

    assert asked.losses is None
    assert run.machine.phase is Phase.PROBING
    sent = [action for action in actions if isinstance(action, act.SendAssignment)]
    assert [(one.worker_id, one.work) for one in sent] == [
        (name, Work.PROBE) for name in ("a", "c", "d")
    ]
    assert run.machine.cohort == ()


def test_cohort_is_asked_for_with_the_losses_once_all_have_answered() -> None:
    run = Run()
    run.start()
    run.probe("a", "c", "d")

    assert run.loss("a", 0.5) == []
    assert run.loss("d", 2.0) == []
    failed = ev.AssignmentFailed(
        at_s=3.0, assignment_id="r-1/1/1/probe/c", code="DATA_EMPTY", reason="x"
    )
    (asked,) = selects(run.tell(failed))

    assert run.machine.phase is Phase.SELECTING
    assert asked.losses == {"a": 0.5, "d": 2.0}
    # Whoever failed is asked only where others do not suffice.
    assert (asked.candidates, asked.size, asked.draw) == (("a", "b", "d"), 2, 1)


def test_worker_that_was_probed_trains_in_an_assignment_of_its_own() -> None:
    run = Run()
    run.start()
    run.probe("a", "b")
    run.loss("a", 0.5)
    run.loss("b", 2.0)

    run.tell(ev.CohortSelected(at_s=4.0, workers=("a", "b")))
    run.at_s = 6.5
    update = ev.UpdateAccepted(at_s=6.5, assignment_id="r-1/1/1/train/a", weight=1.0)
    run.tell(update)

    assert run.machine.phase is Phase.TRAINING
    assert run.machine.cohort == ("a", "b")
    assert run.machine.durations_s == {"a": 2.5}


def test_deadline_draws_by_the_losses_that_came() -> None:
    run = Run()
    run.start()
    run.probe("a", "b", "c")
    run.loss("b", 1.0)

    actions = run.deadline()

    (asked,) = selects(actions)
    assert asked.losses == {"b": 1.0}
    cancelled = [action for action in actions if isinstance(action, act.CancelAssignment)]
    assert [one.worker_id for one in cancelled] == ["a", "c"]
    # Nothing was lost: it is still the first attempt.
    assert run.machine.attempt == 1
    assert run.loss("a", 9.0) == []


def test_next_draw_of_a_round_asks_for_losses_anew() -> None:
    run = Run()
    run.start()
    run.probe("a", "b")
    run.loss("a", 0.5)
    run.loss("b", 2.0)
    run.tell(ev.CohortSelected(at_s=0.0, workers=("a", "b")))

    (asked,) = selects(run.deadline())
    run.probe("c", "d")

    assert (asked.draw, asked.losses) == (2, None)
    assert run.machine.is_open("r-1/1/2/probe/c", Work.PROBE)


def test_probing_goes_on_after_a_restart_where_it_was() -> None:
    run = Run()
    run.start()
    run.probe("a", "b")
    run.loss("a", 0.5)

    run.tell(ev.RunResumed(at_s=5.0))
    again = run.tell(ev.FleetChanged(at_s=5.0, workers=frozenset(FLEET)))
    (asked,) = selects(run.loss("b", 1.5))

    assert [a.worker_id for a in again if isinstance(a, act.SendAssignment)] == ["b"]
    assert asked.losses == {"a": 0.5, "b": 1.5}


def test_draw_after_a_restart_waits_for_as_many_workers_as_any_other() -> None:
    run = Run(min_workers=4)
    run.start()
    run.probe("a", "b")
    run.loss("a", 0.5)

    run.tell(ev.RunResumed(at_s=5.0))
    run.tell(ev.FleetChanged(at_s=5.0, workers=frozenset("bc")))
    assert selects(run.loss("b", 1.5)) == []
    (asked,) = selects(run.tell(ev.FleetChanged(at_s=6.0, workers=frozenset("abcd"))))

    assert (asked.candidates, asked.losses) == (FLEET, {"a": 0.5, "b": 1.5})


def test_losses_that_came_before_a_restart_are_not_asked_for_again() -> None:
    run = Run()
    run.start()
    run.probe("a", "b")
    run.loss("a", 0.5)
    run.loss("b", 1.5)

    run.tell(ev.RunResumed(at_s=5.0))
    (asked,) = selects(run.tell(ev.FleetChanged(at_s=5.0, workers=frozenset(FLEET))))

    assert asked.losses == {"a": 0.5, "b": 1.5}


def test_probes_that_nobody_is_left_to_answer_end_with_the_attempt() -> None:
    run = Run(attempts=1, tags=("jetson",))
    run.start()
    run.probe("a", "b")

    assert selects(run.deadline(())) == []
    run.deadline(())

    finish = run.machine.finish
    assert finish is not None
    assert finish.reason == (
        "round 1: 0 of 2 updates and 0 workers that carry a tag of jetson ready after 1 attempts"
    )


def test_update_for_a_probe_does_not_count() -> None:
    run = Run()
    run.start()
    run.probe("a", "b")

    key = "r-1/1/1/probe/a"
    assert run.tell(ev.UpdateAccepted(at_s=0.0, assignment_id=key, weight=1.0)) == []
    assert run.machine.slots[key].status is Status.OPEN
