from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.rounds import events as ev

EVENTS = get_args(ev.Event)
words = st.text(max_size=20)
json_objects = st.dictionaries(words, st.integers() | words | st.lists(st.integers()))
by_field = {
    "at_s": st.floats(0, 1e10),
    "workers": st.lists(words).map(tuple),
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


def test_every_event_is_durable_but_those_that_are_told_anew() -> None:
    assert set(EVENTS) - set(ev.DURABLE) == {ev.FleetChanged, ev.RunBroken}


def test_kinds_are_the_journals_names() -> None:
    # They lie in the journals of users: a name may be added, none may change.
    assert list(ev.KINDS) == [
        "run_started",
        "run_resumed",
        "cohort_selected",
        "update_accepted",
        "evaluation_reported",
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
