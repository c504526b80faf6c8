from __future__ import annotations

import json
from dataclasses import replace

import pytest
from records import round_result

from fedfleet.reports.round_result import RoundResult


@pytest.mark.parametrize(
    "result",
    [
        round_result(3, 70, workers=(10, 20), virtual_s=5.0),
        replace(round_result(1), at_s=None, version=4, duration_s=0.5, traffic={"w": {"up": 1}}),
    ],
)
def test_round_result_comes_back_from_json(result: RoundResult) -> None:
    assert RoundResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_round_result_leaves_out_a_metric_that_was_not_finite() -> None:
    document = round_result(1, 50).to_json()
    document["metrics"]["train_loss"] = None

    assert RoundResult.from_json(document).metrics == {}


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        ("class_correct", [1]),
        ("class_samples", [100, "x"]),
        ("class_predicted", [1.5, 2]),
        ("confusion", [[1, 2]]),
        ("confusion", [[1, 2], [3]]),
        ("correct", -1),
        ("loss_sum", "much"),
    ],
)
def test_round_result_refuses_an_evaluation_that_is_none(place: str, bad: object) -> None:
    document = round_result(1, 50).to_json()
    document["evaluation"][place] = bad

    with pytest.raises((ValueError, TypeError)):
        RoundResult.from_json(document)
