from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from detectors import CLASSIFIER, servable

from fedfleet_inference_api.history_routes import HistoryPoint, _point

RECORD = servable(CLASSIFIER).record


def shown(updates: object, **evaluation: object) -> HistoryPoint:
    """A version in a history whose run wrote these metrics, as JSON says it."""
    metrics = {"updates": updates, "evaluation": evaluation}
    point = _point(replace(RECORD, metrics=metrics), "accuracy", [])
    return HistoryPoint.model_validate_json(point.model_dump_json())


def test_point_shows_what_was_measured():
    point = shown(3, samples=4, correct=3, loss_sum=2.0)

    assert (point.updates, point.value, point.loss) == (3, 0.75, 0.5)


@pytest.mark.parametrize("odd", [float("inf"), float("nan"), "3", None, [1]])
def test_point_leaves_out_what_is_no_number_for_a_chart(odd):
    check_left_out(odd)


@pytest.mark.parametrize("sign", [1, -1])
def test_point_leaves_out_a_whole_number_that_is_larger_than_any_float(sign):
    check_left_out(sign * 10**400)


def check_left_out(odd: object) -> None:
    assert shown(odd, samples=4, correct=3).updates is None
    assert shown(1, samples=odd, correct=3).value is None
    point = shown(1, samples=4, correct=odd, loss_sum=odd)
    assert (point.value, point.loss) == (None, None)


def test_point_leaves_out_a_quotient_that_is_none():
    point = shown(1, samples=1e-300, correct=1e300, loss_sum=sys.float_info.max)

    assert (point.value, point.loss) == (None, None)
