from __future__ import annotations

import json

import pytest

from fedfleet.cli.model_arguments import evaluation_of, not_listed
from fedfleet.cli.models import _origin
from fedfleet.v1 import control_service_pb2 as pb


def version_with(metrics: object) -> pb.Version:
    return pb.Version(metrics_json=json.dumps(metrics))


def test_evaluation_of_a_version_is_its_numbers() -> None:
    evaluation = {
        "accuracy": 0.5,
        "loss": 1,
        "class_samples": [1, 2],
        "scores": {"map50": 0.25},
    }

    assert evaluation_of(version_with({"evaluation": evaluation})) == evaluation
    assert evaluation_of(pb.Version()) == {}


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        3,
        {},
        {"evaluation": None},
        {"evaluation": "x"},
        {"evaluation": [1]},
        {"evaluation": {"accuracy": "x", "loss": True, "class_samples": 3, "scores": 1}},
        {"evaluation": {"accuracy": 10**400, "class_samples": [1, None]}},
        {"evaluation": {"accuracy": None, "class_correct": [1, "x"]}},
    ],
)
def test_evaluation_that_is_none_has_no_numbers(metrics: object) -> None:
    assert evaluation_of(version_with(metrics)) == {}


def test_score_that_is_no_number_is_left_out() -> None:
    scores = {"map50": 0.5, "map": "x"}

    found = evaluation_of(version_with({"evaluation": {"scores": scores}}))

    assert found == {"scores": {"map50": 0.5}}


def test_list_says_how_many_versions_it_lacks() -> None:
    assert not_listed("a", 2) == "a: 1 older version is not listed; --limit 0 lists all"
    assert not_listed("a", 31).startswith("a: 30 older versions are not listed")


@pytest.mark.parametrize("software", ["x", 3, ["a"], None])
def test_lineage_of_another_form_is_told_as_it_is(software: object) -> None:
    version = pb.Version(lineage_json=json.dumps({"imported": {}, "software": software}))

    told = software if isinstance(software, str) else json.dumps(software)
    assert dict(_origin(version)) == {"imported": "{}", "software": told}
