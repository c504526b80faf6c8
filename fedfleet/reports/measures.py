"""What a record comes to: its evaluated rounds as points, its end, its best, the way to a target.

An evaluation is the coordinator's; where the recipe leaves that out, it is the workers' together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from fedfleet.reports.record import Record
from fedfleet.reports.round_result import RoundResult
from fedfleet.reports.settings import is_detector
from fedfleet.types import MAP50, Evaluation

# A target that nobody named: this share of the best accuracy of all runs.
TARGET_RATIO = 0.95
# What rounds are measured by.
ACCURACY = "accuracy"
RECALL = "recall"  # a detector's share of right answers
PRECISION = "mAP@0.5"


@dataclass(frozen=True, kw_only=True)
class Point:
    """An evaluated round, and what had been spent when it closed.

    Args:
        moved_bytes: payload up and down, of this round and those before.
        elapsed_s: since the run began; None where it is not known.
        virtual_s: of the simulated fleet; None where no time was simulated.
        accuracy: or the quality that the version is measured by.
    """

    round: int
    moved_bytes: int
    elapsed_s: float | None
    virtual_s: float | None
    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Measures:
    """A run in numbers. Accuracy and loss are None where no round was evaluated."""

    rounds: int
    final_accuracy: float | None
    final_loss: float | None
    best_accuracy: float | None
    best_round: int | None
    bytes_up: int
    bytes_down: int
    elapsed_s: float | None
    virtual_s: float | None


def measure_name(evaluation: Evaluation, *, of_detector: bool) -> str:
    """What the quality of this one is: of a detector without a measured precision its recall."""
    if MAP50 in evaluation.scores:
        return PRECISION
    return hits_name(of_detector=of_detector)


def quality_name(evaluations: Iterable[Evaluation], *, of_detector: bool = False) -> str:
    """What the quality of these is: accuracy, a detector's mean average precision, or either."""
    names = {measure_name(one, of_detector=of_detector) for one in evaluations}
    return either_name(names or {PRECISION if of_detector else ACCURACY})


def either_name(names: Collection[str]) -> str:
    """Some of the measures in words, always in the same order; accuracy where there is none."""
    return " or ".join(name for name in (ACCURACY, RECALL, PRECISION) if name in names) or ACCURACY


def hits_name(*, of_detector: bool) -> str:
    """What the share of right answers is called, which is all that workers measure."""
    return RECALL if of_detector else ACCURACY


def quality_of(records: Iterable[Record]) -> str:
    """What the quality of the rounds of runs is."""
    names = set()
    for record in records:
        of_detector = is_detector(record.recipe)
        found = (evaluation_of(result) for result in record.rounds)
        names |= {measure_name(one, of_detector=of_detector) for one in found if one is not None}
    return either_name(names)


def evaluation_of(result: RoundResult) -> Evaluation | None:
    """The coordinator's evaluation of a round, else all workers' added up, else None."""
    if result.evaluation is not None:
        return result.evaluation if result.evaluation.samples else None
    ones = [one for one in result.worker_evaluations.values() if one.samples]
    return reduce(add, ones) if ones else None


def points_of(record: Record) -> list[Point]:
    """The record's evaluated rounds, in order."""
    found, moved_bytes = [], 0
    for result in record.rounds:
        moved_bytes += result.bytes_up + result.bytes_down
        evaluation = evaluation_of(result)
        if evaluation is not None:
            found.append(
                Point(
                    round=result.round,
                    moved_bytes=moved_bytes,
                    elapsed_s=_elapsed_s(record, result),
                    virtual_s=result.virtual_s,
                    accuracy=evaluation.quality,
                    loss=evaluation.loss,
                )
            )
    return found


def measure(record: Record) -> Measures:
    """The record in numbers."""
    points = points_of(record)
    final = points[-1] if points else None
    best = max(points, key=lambda point: point.accuracy, default=None)  # the first of equals
    last = record.rounds[-1] if record.rounds else None
    return Measures(
        rounds=len(record.rounds),
        final_accuracy=final.accuracy if final else None,
        final_loss=final.loss if final else None,
        best_accuracy=best.accuracy if best else None,
        best_round=best.round if best else None,
        bytes_up=sum(item.bytes_up for item in record.rounds),
        bytes_down=sum(item.bytes_down for item in record.rounds),
        elapsed_s=_elapsed_s(record, last) if last else None,
        virtual_s=last.virtual_s if last else None,
    )


def first_at(record: Record, target: float) -> Point | None:
    """The first evaluated round whose accuracy is the target or more."""
    return next((point for point in points_of(record) if point.accuracy >= target), None)


def target_for(records: Sequence[Record]) -> float:
    """A target for runs that are compared: nearly the best of them, in whole percents."""
    best = max((measure(record).best_accuracy or 0.0 for record in records), default=0.0)
    # The product may lie a rounding error below a whole percent.
    return math.floor(100 * TARGET_RATIO * best + 1e-9) / 100


def _elapsed_s(record: Record, result: RoundResult) -> float | None:
    if result.at_s is None or record.facts.started_at_s is None:
        return None
    return max(0.0, result.at_s - record.facts.started_at_s)
