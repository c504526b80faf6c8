from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import FedFleetError
from fedfleet.types import Evaluation
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.evaluations import (
    evaluation_from_json,
    evaluation_from_message,
    evaluation_to_message,
)
from fedfleet.wire.limits import MAX_CLASSES


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    """What counting labels and answers can give."""
    classes = draw(st.integers(1, 5))
    label = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(label, label), max_size=30))
    correct = sum(a == b for a, b in pairs)
    return Evaluation(
        samples=len(pairs),
        loss_sum=draw(st.floats(0, 1e9)),
        correct=correct,
        top5=draw(st.integers(correct, len(pairs))),
        class_samples=tuple(sum(a == c for a, _ in pairs) for c in range(classes)),
        class_correct=tuple(sum(a == b == c for a, b in pairs) for c in range(classes)),
        class_predicted=tuple(sum(b == c for _, b in pairs) for c in range(classes)),
        scores=draw(st.dictionaries(st.sampled_from(["map50", "map"]), st.floats(0, 1))),
    )


@given(evaluations())
def test_evaluation_survives_the_wire(evaluation: Evaluation) -> None:
    sent = evaluation_to_message(evaluation).SerializeToString()

    assert evaluation_from_message(pb.Evaluation.FromString(sent)) == evaluation


@given(evaluations())
def test_evaluation_of_a_record_is_read_as_it_was_written(evaluation: Evaluation) -> None:
    assert evaluation_from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


def message(**changes: object) -> pb.Evaluation:
    values: dict[str, object] = {
        "samples": 4,
        "loss_sum": 2.0,
        "correct": 2,
        "top5": 3,
        "class_samples": [3, 1],
        "class_correct": [2, 0],
        "class_predicted": [2, 2],
    }
    return pb.Evaluation(**(values | changes))  # type: ignore[arg-type]  # a table of the fields


def test_detector_may_answer_more_boxes_than_there_are() -> None:
    found = evaluation_from_message(message(top5=2, class_predicted=[9, 0]))

    assert (found.samples, found.correct, found.class_predicted) == (4, 2, (9, 0))


def test_message_of_the_tests_is_good() -> None:
    assert evaluation_from_message(message()).accuracy == 0.5


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (message(samples=5), "INVALID_INPUT"),
        (message(correct=3), "INVALID_INPUT"),
        (message(top5=1), "INVALID_INPUT"),
        (message(top5=5), "INVALID_INPUT"),
        (message(class_samples=[3, 1, 0]), "INVALID_INPUT"),
        (message(class_predicted=[4]), "INVALID_INPUT"),
        (message(class_predicted=[2, 3]), "INVALID_INPUT"),
        (message(class_correct=[1, 1], class_samples=[4, 0]), "INVALID_INPUT"),
        (message(class_correct=[2, 0], class_predicted=[1, 3]), "INVALID_INPUT"),
        (message(loss_sum=float("nan")), "INVALID_INPUT"),
        (message(loss_sum=float("inf")), "INVALID_INPUT"),
        (message(loss_sum=-1.0), "INVALID_INPUT"),
        (message(class_samples=[0] * (MAX_CLASSES + 1)), "LIMIT_EXCEEDED"),
        (message(scores={"map50": 1.5}), "INVALID_INPUT"),
        (message(scores={"map50": float("nan")}), "INVALID_INPUT"),
        (message(scores={str(i): 0.5 for i in range(MAX_CLASSES + 3)}), "LIMIT_EXCEEDED"),
    ],
)
def test_evaluation_that_cannot_be_is_refused(bad: pb.Evaluation, code: str) -> None:
    with pytest.raises(FedFleetError) as caught:
        evaluation_from_message(bad)
    assert caught.value.code == code


def test_evaluation_of_nothing_is_taken() -> None:
    assert evaluation_from_message(pb.Evaluation()).samples == 0
