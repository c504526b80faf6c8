"""How good a version is, in words: its accuracy, or a detector's mean average precision.

A detector's share of right answers is its recall, and is never called accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedfleet.cli.output import number, percent
from fedfleet.reports.measures import PRECISION, RECALL, hits_name, quality_name
from fedfleet.types import MAP50, Evaluation, Json

# Behind the name of what was measured by workers, each on examples that it holds back.
ON_WORKERS = " on workers"


def told(evaluation: Evaluation, *, of_detector: bool = False) -> str:
    """An evaluation in half a line; of a detector its mAP and its recall."""
    return told_json(evaluation.to_json(), of_detector=of_detector)


def told_json(evaluation: Json, *, of_detector: bool = False) -> str:
    """The same of an evaluation as JSON, as events and versions carry it."""
    hits, loss = percent(evaluation["accuracy"]), number(evaluation["loss"])
    precision = evaluation.get("scores", {}).get(MAP50)
    if precision is not None:
        return f"{PRECISION} {percent(precision)}  {RECALL} {hits}  loss {loss}"
    return f"{hits_name(of_detector=of_detector)} {hits}  loss {loss}"


def quality_column(evaluations: Sequence[Evaluation | None], *, of_detector: bool = False) -> str:
    """What a column with the quality of these is called."""
    found = [one for one in evaluations if one is not None]
    return quality_name(found, of_detector=of_detector)


def class_quality(evaluation: Evaluation, place: int, name: str) -> float | None:
    """A class's average precision where it was measured, else its share of right answers."""
    if MAP50 in evaluation.scores:
        return evaluation.class_score(name)
    many = evaluation.class_samples[place]
    return evaluation.class_correct[place] / many if many else None
