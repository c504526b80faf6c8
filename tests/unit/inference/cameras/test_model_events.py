from __future__ import annotations

from dataclasses import replace

import pytest
from serving import CARD

from fedfleet.models.catalog import build
from fedfleet.store.protocols import VersionRecord
from fedfleet.training.state import initial_state
from fedfleet_inference_api.backends.backend import Prepared
from fedfleet_inference_api.backends.plain import PlainTorch
from fedfleet_inference_api.cameras.model_events import model_events
from fedfleet_inference_api.following import Following, Refused
from fedfleet_inference_api.servable import Servable


def servable(number: int) -> Servable:
    record = VersionRecord(
        model="digits",
        number=number,
        digest=f"{number:064x}",
        size_bytes=1,
        schema=initial_state(CARD, 1).schema,
        run_id="run",
        round=10 + number,
        parent=None,
        created_at_s=0.0,
        card=CARD.to_json(),
    )
    backend = PlainTorch(Prepared(build(CARD), CARD.inputs))
    return Servable(record=record, alias="latest", card=CARD, backend=backend)


def kinds(before: Following, after: Following) -> list[tuple[str, int]]:
    return [(event.kind, event.model.get("version", 0)) for event in model_events(before, after)]


ONE, TWO = servable(1), servable(2)
REFUSED = Refused("digits", 2, "SCHEMA_MISMATCH", "no such tensor", 1.0)
SERVING = Following(current=ONE)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Following(), SERVING, [("version_served", 1)]),
        (SERVING, replace(SERVING, failure="away"), []),
        (SERVING, Following(current=TWO, previous=ONE), [("version_served", 2)]),
        (SERVING, replace(SERVING, refused=(REFUSED,)), [("version_refused", 1)]),
        (
            Following(current=TWO, previous=ONE),
            Following(current=ONE, refused=(replace(REFUSED, was_served=True),)),
            [("rolled_back", 1), ("version_served", 1)],
        ),
        (
            Following(current=TWO, previous=ONE),
            Following(current=ONE, previous=TWO, is_held=True),
            [("rolled_back", 1), ("version_served", 1)],
        ),
        (SERVING, replace(SERVING, candidate=TWO), [("candidate_ready", 2)]),
        (replace(SERVING, candidate=TWO), SERVING, [("candidate_left", 2)]),
        (
            replace(SERVING, refused=(REFUSED,)),
            replace(SERVING, refused=(REFUSED,), failure="again"),
            [],
        ),
    ],
)
def test_model_events_say_what_changed(before, after, expected):
    assert kinds(before, after) == expected


def test_model_events_name_the_version_the_round_and_the_reason():
    (served,) = model_events(Following(), SERVING)
    (refused,) = model_events(SERVING, replace(SERVING, refused=(REFUSED,)))

    assert served.model == {"name": "digits", "version": 1, "round": 11, "digest": f"{1:064x}"}
    assert refused.fields == {
        "name": "digits",
        "version": 2,
        "code": "SCHEMA_MISMATCH",
        "reason": "no such tensor",
    }


def test_version_that_is_found_under_another_alias_is_no_news():
    first = Following(current=servable(1))
    renamed = replace(first, current=replace(first.current, alias=""))

    assert model_events(first, renamed) == []
