from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.algorithms.plan import Chain, Plan
from fedfleet.rounds import events as ev

EVENTS = get_args(ev.Event)
words = st.text(max_size=20)
json_objects = st.dictionaries(words, st.integers() | words | st.lists(st.integers()))
by_field = {
    "at_s": st.floats(0, 1e10),
    "workers": st.lists(words).map(tuple),
    "chain_lengths": st.lists(st.integers(1, 100)).map(tuple),
    "lanes": st.lists(words).map(tuple),
    "updates": st.integers(0, 2**40),
    "resting": st.integers(0, 2**40),
    "corrections": st.lists(st.floats(1e-3, 1e3)).map(tuple),
    "deadline_s": st.floats(0, 1e6),
    "loss": st.floats(0, 1e6),
    "samples": st.integers(1, 2**40),
    "blobs": st.lists(words).map(tuple),
    "assignment_id": words,
    "weight": st.floats(0, 1e6),
    "evaluation": json_objects,
    "code": words,
    "reason": words,
    "version": st.integers(0, 2**40),
    "digest": words,
}
durable = st.one_of(
    *(st.builds(cls, **{f.name: by_field[f.name] for f in fields(cls)}) for cls in ev.DURABLE)
)


@given(durable)
def test_durable_event_survives_the_journal(event: ev.Event) -> None:
    values = json.loads(json.dumps(ev.to_fields(event)))

    assert "at_s" not in values
    assert ev.from_fields(ev.kind_of(event), event.at_s, values) == event


lanes = st.sampled_from(["", "0", "cluster"])
chains = st.builds(Chain, st.lists(words, min_size=1, max_size=4).map(tuple), lanes)
plans = st.builds(Plan, st.lists(chains, max_size=5).map(tuple), st.none() | st.integers(1, 9))


@given(plans, st.dictionaries(words, st.floats(0.5, 2.0)))
def test_plan_survives_the_journal(plan: Plan, corrections: dict[str, float]) -> None:
    selected = ev.cohort_selected(plan, 3.0, corrections)

    values = json.loads(json.dumps(ev.to_fields(selected)))
    again = ev.from_fields("cohort_selected", 3.0, values)

    assert again == selected
    assert isinstance(again, ev.CohortSelected)
    assert again.chains == plan.chains
    assert again.updates == (plan.updates or 0)
    found = again.corrections or (1.0,) * len(plan.workers)
    assert list(found) == [corrections.get(worker, 1.0) for worker in plan.workers]


def test_cohort_of_a_journal_from_before_chains_is_a_chain_for_each() -> None:
    event = ev.from_fields("cohort_selected", 3.0, {"workers": ["a", "b"]})

    assert isinstance(event, ev.CohortSelected)
    assert event.chains == (Chain(("a",)), Chain(("b",)))


def test_events_of_a_journal_that_says_less_are_read() -> None:
    passed = ev.from_fields("deadline_passed", 3.0, {"workers": ["a"]})
    reported = ev.from_fields("probe_reported", 3.0, {"assignment_id": "k", "loss": 1.0})

    assert passed == ev.DeadlinePassed(at_s=3.0, workers=("a",), resting=0)
    assert reported == ev.ProbeReported(at_s=3.0, assignment_id="k", loss=1.0, samples=0)


def test_every_event_is_durable_but_those_that_are_told_anew() -> None:
    assert set(EVENTS) - set(ev.DURABLE) == {ev.FleetChanged, ev.RunBroken}


def test_kinds_are_the_journals_names() -> None:
    # They lie in the journals of users: a name may be added, none may change.
    assert list(ev.KINDS) == [
        "run_started",
        "run_resumed",
        "probes_selected",
        "probe_reported",
        "cohort_selected",
        "update_accepted",
        "evaluation_reported",
        "statistics_reported",
        "assignment_failed",
        "deadline_passed",
        "round_committed",
        "stop_requested",
    ]


@pytest.mark.parametrize("kind", ["run_submitted", "run_finished", "fleet_changed", ""])
def test_entry_that_is_not_the_machines_is_no_event(kind: str) -> None:
    assert ev.from_fields(kind, 1.0, {"workers": []}) is None


def test_remarks_of_a_driver_are_left_out() -> None:
    event = ev.from_fields("stop_requested", 2.0, {"metrics": {"loss": math.pi}})

    assert event == ev.StopRequested(at_s=2.0)
