"""An evaluation as a message and back."""

from __future__ import annotations

import math
from typing import Any

from fedfleet.errors import InvalidInput
from fedfleet.types import Evaluation
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.limits import MAX_CLASSES, check_count

_LARGEST_COUNT = 1 << 53  # whole numbers that a float can hold, as a message's counts can


def evaluation_to_message(evaluation: Evaluation) -> pb.Evaluation:
    """Return the message."""
    return pb.Evaluation(
        samples=evaluation.samples,
        loss_sum=evaluation.loss_sum,
        correct=evaluation.correct,
        top5=evaluation.top5,
        class_samples=evaluation.class_samples,
        class_correct=evaluation.class_correct,
        class_predicted=evaluation.class_predicted,
        scores=evaluation.scores,
    )


def evaluation_from_message(message: pb.Evaluation) -> Evaluation:
    """Read a message that may come from anybody.

    Raises:
        LimitExceeded: too many classes.
        InvalidInput: counts do not add up, or the loss is not a number.
    """
    check_count("classes", len(message.class_samples), MAX_CLASSES)
    check_count("scores", len(message.scores), MAX_CLASSES + 2)
    evaluation = Evaluation(
        samples=message.samples,
        loss_sum=message.loss_sum,
        correct=message.correct,
        top5=message.top5,
        class_samples=tuple(message.class_samples),
        class_correct=tuple(message.class_correct),
        class_predicted=tuple(message.class_predicted),
        scores=dict(message.scores),
    )
    _check(evaluation)
    return evaluation


def evaluation_from_json(value: Any) -> Evaluation:
    """Read what ``Evaluation.to_json`` wrote, or anybody. Any: whatever JSON can hold.

    Raises:
        LimitExceeded: too many classes.
        InvalidInput: another form, or as ``evaluation_from_message``.
    """
    counts = ("samples", "correct", "top5")
    columns = ("class_samples", "class_correct", "class_predicted")
    is_one = (
        isinstance(value, dict)
        and all(_is_count(value.get(name)) for name in counts)
        and all(_are_counts(value.get(name)) for name in columns)
        and _is_number(value.get("loss_sum"))
        and all(name in value for name in ("loss", "accuracy"))
        and all(value[name] is None or _is_number(value[name]) for name in ("loss", "accuracy"))
        and _is_table(value.get("confusion", []), len(value["class_samples"]))
        and isinstance(value.get("scores", {}), dict)
        and all(_is_number(score) for score in value.get("scores", {}).values())
    )
    if not is_one:
        raise InvalidInput("evaluation: must be null, or an evaluation as a coordinator writes it")
    check_count("classes", len(value["class_samples"]), MAX_CLASSES)
    check_count("scores", len(value.get("scores", {})), MAX_CLASSES + 2)
    evaluation = Evaluation.from_json(value)
    _check(evaluation)
    return evaluation


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST_COUNT)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_COUNT


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_table(value: Any, side: int) -> bool:
    """Whether it is a confusion matrix: as many rows and columns as classes, or none."""
    if not isinstance(value, list) or len(value) not in (0, side):
        return False
    return all(_are_counts(row) and len(row) == side for row in value)


def _check(evaluation: Evaluation) -> None:
    """Raises InvalidInput: the counts do not add up, or a number is out of range."""
    if not all(0 <= score <= 1 for score in evaluation.scores.values()):
        raise InvalidInput("a score of the evaluation is out of [0, 1]")
    by_class = (evaluation.class_samples, evaluation.class_correct, evaluation.class_predicted)
    lengths = {len(column) for column in by_class}
    # A detector may answer more boxes than there are, or fewer; and it has no first five.
    answers = sum(evaluation.class_predicted)
    sums = (
        sum(evaluation.class_samples) == evaluation.samples
        and (answers == evaluation.samples or evaluation.top5 == evaluation.correct)
        and sum(evaluation.class_correct) == evaluation.correct
        and evaluation.correct <= evaluation.top5 <= evaluation.samples
    )
    columns = zip(*by_class, strict=False)  # unequal lengths are refused beside
    per_class = all(hits <= min(labels, answers) for labels, hits, answers in columns)
    if len(lengths) != 1 or not sums or not per_class:
        raise InvalidInput("the evaluation's counts do not add up")
    if not (math.isfinite(evaluation.loss_sum) and evaluation.loss_sum >= 0):
        raise InvalidInput(f"loss_sum {evaluation.loss_sum}: must be a finite number, 0 or more")
