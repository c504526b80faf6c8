"""One aggregate of updates of several widths: each coordinate is the mean of those that have it.

HeteroFL (Diao et al. 2021, arXiv:2010.01264, equation 4): a coordinate is divided by the weight of
the workers whose sub-model holds it, and one that nobody holds stays as it was. A row of the output
layer counts, where workers say which classes they have, for those that have its class.

Legend: P = trainable elements of the whole model, C = classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedfleet.aggregation.accumulator import (
    Aggregate,
    StatisticsPolicy,
    Totals,
    central,
    mean_variance_pairs,
)
from fedfleet.aggregation.slices import Slice
from fedfleet.types import Array, Kind, ModelState, Section, Update, UpdateSection

# Of each position of a trainable vector: the class whose row of the output layer it is in, or -1.
ClassRows = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Part:
    """The updates of one width.

    Args:
        slice: of the whole model.
        rows: of the part's trainable vector; used where workers say which classes they have.
    """

    totals: Totals
    slice: Slice
    rows: ClassRows | None = None


def merge(parts: Sequence[Part], base: ModelState, policy: StatisticsPolicy) -> Aggregate:
    """Add up the parts, in their order.

    Args:
        parts: one or more, with one update or more each.
        base: what the round started from: where coordinates stay that nobody has.
    """
    names = parts[0].totals.sums
    sums = {name: np.zeros(base.trainable.size) for name in names}
    covered_P = np.zeros(base.trainable.size)
    moments = np.zeros(base.statistics.size)
    measured = np.zeros(base.statistics.size)
    counters = base.counters.copy()
    for part in parts:
        span, totals = part.slice.span, part.totals
        for name, total in sums.items():
            total[span(Kind.TRAINABLE)] += totals.sums[name]
        covered_P[span(Kind.TRAINABLE)] += _weights(part)
        moments[span(Kind.STATISTIC)] += totals.moments
        measured[span(Kind.STATISTIC)] += totals.weight
        at = span(Kind.COUNTER)
        counters[at] = np.maximum(counters[at], totals.counters)
    # Where nobody counted, nothing was added either: 0 / 1.
    np.copyto(covered_P, 1.0, where=covered_P == 0)
    for total in sums.values():
        total /= covered_P
    return Aggregate(
        means=sums,
        statistics=_statistics(moments, measured, base, policy),
        counters=counters,
        updates=sum(part.totals.updates for part in parts),
        total_weight=sum(part.totals.weight for part in parts),
    )


def without_absent_rows(update: Update, rows: ClassRows, classes: Collection[int]) -> Update:
    """An update whose rows of the output layer move only where the worker has the class.

    They count for nobody else, so what a worker sends there must not count either: weight decay
    moves rows that no loss asks for, and a worker need not be honest.

    Args:
        rows: of the update's trainable vectors.
    """
    absent_P = (rows >= 0) & ~np.isin(rows, sorted(classes))

    def own(section: UpdateSection) -> UpdateSection:
        if section.kind is not Kind.TRAINABLE:
            return section
        return Section(section.name, section.kind, np.where(absent_P, 0, section.values))

    return replace(update, sections=tuple(map(own, update.sections)))


def _weights(part: Part) -> Array | float:
    """The weight behind each trainable coordinate of a part."""
    totals = part.totals
    if not totals.class_weights or part.rows is None:
        return totals.weight
    by_class = np.zeros(max(int(part.rows.max(initial=-1)) + 1, 1))
    for label, weight in totals.class_weights.items():
        if label < by_class.size:
            by_class[label] = weight
    of_class = by_class[np.maximum(part.rows, 0)] + totals.all_classes_weight
    return np.where(part.rows >= 0, of_class, totals.weight)


def _statistics(
    moments: Array, measured: Array, base: ModelState, policy: StatisticsPolicy
) -> Array:
    held = measured > 0
    means = np.divide(moments, measured, where=held, out=np.zeros_like(moments))
    if policy == "pooled":
        central(means, mean_variance_pairs(base.schema))
    statistics: Array = np.where(held, means, base.statistics).astype(np.float32)
    return statistics
