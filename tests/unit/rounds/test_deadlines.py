"""The deadline is as long as the cohort's history says, and is the same after a restart."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import header

from fedfleet.algorithms.plan import Chain, Plan
from fedfleet.errors import RecipeInvalid
from fedfleet.rounds import actions as act
from fedfleet.rounds import events as ev
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.deadlines import quantile, training_deadline_s
from fedfleet.rounds.history import History
from fedfleet.rounds.machine import RoundMachine
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rounds.selection import needs_history
from fedfleet.training.config import EvaluationConfig

CONFIG = RoundsConfig(rounds=9, cohort=2, deadline_s=100.0, deadline="history")


def history_of(durations_s: Mapping[str, float]) -> History:
    headers = [header(worker_id=name) for name in durations_s]
    return History().after(1, sorted(durations_s), headers, durations_s)


def cohort(*workers: str) -> tuple[Chain, ...]:
    return tuple(Chain((worker,)) for worker in workers)


def test_deadline_is_the_quantile_of_what_the_cohort_takes_times_the_slack() -> None:
    history = history_of({f"w{i}": float(i) for i in range(1, 11)} | {"other": 60.0})

    found = training_deadline_s(CONFIG, history, cohort(*(f"w{i}" for i in range(1, 11))))

    assert found == pytest.approx(1.5 * 9.0)


def test_deadline_stays_between_its_floor_and_deadline_s() -> None:
    history = history_of({"fast": 0.001, "slow": 90.0})

    assert training_deadline_s(CONFIG, history, cohort("fast")) == 1.0
    assert training_deadline_s(CONFIG, history, cohort("fast", "slow")) == 100.0


def test_deadline_gives_workers_never_seen_as_long_as_the_slowest_that_was() -> None:
    history = history_of({"fast": 2.0, "slow": 20.0})

    assert training_deadline_s(CONFIG, history, cohort("new", "fast")) == 30.0
    assert training_deadline_s(CONFIG, History(), cohort("new", "fast")) == 100.0


def test_deadline_of_a_chain_is_for_all_of_it() -> None:
    history = history_of({"a": 4.0, "b": 6.0})

    assert training_deadline_s(CONFIG, history, (Chain(("a", "b")),)) == 15.0


def test_deadline_grows_until_a_worker_that_became_slower_is_in_time() -> None:
    """Rounds close with a quorum of one, since one that misses it is not committed."""
    history, needs_s, missed = history_of({"a": 4.0, "b": 4.0}), 30.0, 0
    for round in range(2, 20):
        lasts_s = training_deadline_s(CONFIG, history, cohort("a", "b"))
        in_time = needs_s <= lasts_s
        missed += not in_time
        took_s = {"a": needs_s if in_time else lasts_s, "b": 4.0}
        headers = [header(worker_id=name) for name in (["a", "b"] if in_time else ["b"])]
        history = history.after(round, ["a", "b"], headers, took_s)

    assert missed == 4  # 6, 9, 13.5, 20.25
    assert training_deadline_s(CONFIG, history, cohort("a", "b")) == pytest.approx(45.0, rel=0.01)


def test_deadline_of_a_later_attempt_is_the_recipes() -> None:
    history = history_of({"a": 4.0})

    assert training_deadline_s(CONFIG, history, cohort("a"), attempt=1) == 6.0
    assert training_deadline_s(CONFIG, history, cohort("a"), attempt=2) == 0.0


def test_deadline_is_the_recipes_unless_it_asks_for_the_history() -> None:
    fixed = RoundsConfig(rounds=1, cohort=1)

    assert training_deadline_s(fixed, history_of({"a": 4.0}), cohort("a")) == 0.0
    assert not needs_history(fixed)
    assert needs_history(CONFIG)
    assert needs_history(RoundsConfig(rounds=1, cohort=1, selection="oort"))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_quantile_is_exceeded_by_no_more_than_the_rest(values: list[float], share: float) -> None:
    found = quantile(values, share)

    assert found in values
    assert sum(value > found for value in values) <= (1 - share) * len(values) + 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6


def selected(deadline_s: float, at_s: float = 5.0) -> ev.CohortSelected:
    return ev.cohort_selected(Plan(cohort("a", "b")), at_s, None, deadline_s)


def machine_in_training(deadline_s: float) -> tuple[RoundMachine, list[act.Action]]:
    machine = RoundMachine("r", CONFIG, EvaluationConfig(workers="none"))
    machine.handle(ev.RunStarted(at_s=0.0))
    machine.handle(ev.FleetChanged(at_s=1.0, workers=frozenset("ab")))
    return machine, machine.handle(selected(deadline_s))


def test_machine_waits_as_long_as_the_cohort_was_given() -> None:
    machine, actions = machine_in_training(7.0)

    assert actions[0] == act.WakeAt(at_s=12.0)
    assert {one.deadline_s for one in actions if isinstance(one, act.SendAssignment)} == {12.0}
    # After a restart it begins anew, and is as long.
    assert act.WakeAt(at_s=27.0) in machine.handle(ev.RunResumed(at_s=20.0))


def test_machine_waits_for_deadline_s_where_an_older_journal_says_nothing() -> None:
    fields = {name: v for name, v in ev.to_fields(selected(7.0)).items() if name != "deadline_s"}
    older = ev.from_fields("cohort_selected", 5.0, fields)
    assert older is not None
    machine = RoundMachine("r", CONFIG, EvaluationConfig(workers="none"))
    machine.handle(ev.RunStarted(at_s=0.0))

    assert machine.handle(older)[0] == act.WakeAt(at_s=105.0)
    assert ev.from_fields("cohort_selected", 5.0, ev.to_fields(selected(7.0))) == selected(7.0)


def test_machine_says_how_long_it_waited_for_whoever_was_late() -> None:
    machine, _ = machine_in_training(7.0)
    machine.handle(ev.UpdateAccepted(at_s=8.0, assignment_id="r/1/1/train/a", weight=1.0))

    machine.handle(ev.DeadlinePassed(at_s=12.0, workers=("a", "b")))

    assert machine.durations_s == {"a": 3.0, "b": 7.0}
    # The next attempt has a cohort, and a deadline, of its own.
    assert machine.deadline_s == 112.0
    machine.handle(ev.cohort_selected(Plan(cohort("b")), 13.0, None, 10.0))
    assert machine.deadline_s == 23.0
    machine.handle(ev.UpdateAccepted(at_s=22.0, assignment_id="r/1/2/train/b", weight=1.0))
    assert machine.durations_s == {"a": 3.0, "b": 9.0}


RECIPE = """
name = "pace"
[model]
architecture = "mlp"
[data]
dataset = "digits"
partition = "iid"
workers = 4
[training]
partial_work = {partial}
[algorithm]
name = "{algorithm}"
[rounds]
rounds = 1
cohort = 2
mode = "semi-synchronous"
"""


@pytest.mark.parametrize(
    ("partial", "algorithm", "text"),
    [("false", "fedavg", "partial_work = false: rounds.mode"), ("true", "fedgw", "whole epochs")],
)
def test_recipe_of_periods_needs_partial_work(partial: str, algorithm: str, text: str) -> None:
    with pytest.raises(RecipeInvalid, match=text):
        parse_recipe(RECIPE.format(partial=partial, algorithm=algorithm))


def test_recipe_of_periods_is_for_algorithms_that_take_partial_work() -> None:
    parsed = parse_recipe(RECIPE.format(partial="true", algorithm="fedavg"))

    assert parsed.rounds.mode == "semi-synchronous"
