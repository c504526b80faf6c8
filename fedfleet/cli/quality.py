"""How good a version is, in words: its accuracy, or a detector's mean average precision."""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet.cli.output import number, percent
from fedfleet.reports.measures import ACCURACY, PRECISION, quality_name
from fedfleet.types import MAP50, Evaluation, Json


def told(evaluation: Evaluation) -> str:
    """An evaluation in half a line; of a detector its mAP and its recall."""
    return told_json(evaluation.to_json())


def told_json(evaluation: Json) -> str:
    """The same of an evaluation as JSON, as events and versions carry it."""
    recall, loss = percent(evaluation["accuracy"]), number(evaluation["loss"])
    precision = evaluation.get("scores", {}).get(MAP50)
    if precision is None:
        return f"{ACCURACY} {recall}  loss {loss}"
    return f"{PRECISION} {percent(precision)}  recall {recall}  loss {loss}"


def quality_column(evaluations: Sequence[Evaluation | None]) -> str:
    """What a column with the quality of these is called."""
    return quality_name([one for one in evaluations if one is not None])


def class_quality(evaluation: Evaluation, place: int, name: str) -> float | None:
    """A class's average precision where it was measured, else its share of right answers."""
    if MAP50 in evaluation.scores:
        return evaluation.class_score(name)
    many = evaluation.class_samples[place]
    return evaluation.class_correct[place] / many if many else None
