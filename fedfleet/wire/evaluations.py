"""An evaluation as a message and back."""

from __future__ import annotations

import math

from fedfleet.errors import InvalidInput
from fedfleet.types import Evaluation
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.limits import MAX_CLASSES, check_count


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
    if not all(0 <= score <= 1 for score in evaluation.scores.values()):
        raise InvalidInput("a score of the evaluation is out of [0, 1]")
    lengths = {len(message.class_samples), len(message.class_correct), len(message.class_predicted)}
    # A detector may answer more boxes than there are, or fewer; and it has no first five.
    answers = sum(evaluation.class_predicted)
    sums = (
        sum(evaluation.class_samples) == evaluation.samples
        and (answers == evaluation.samples or evaluation.top5 == evaluation.correct)
        and sum(evaluation.class_correct) == evaluation.correct
        and evaluation.correct <= evaluation.top5 <= evaluation.samples
    )
    columns = zip(
        evaluation.class_samples,
        evaluation.class_correct,
        evaluation.class_predicted,
        strict=False,  # unequal lengths are refused beside
    )
    per_class = all(hits <= min(labels, answers) for labels, hits, answers in columns)
    if len(lengths) != 1 or not sums or not per_class:
        raise InvalidInput("the evaluation's counts do not add up")
    if not (math.isfinite(evaluation.loss_sum) and evaluation.loss_sum >= 0):
        raise InvalidInput(f"loss_sum {evaluation.loss_sum}: must be a finite number, 0 or more")
    return evaluation
