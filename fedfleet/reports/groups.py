"""Runs that differ only in the seed are one line in a report: their mean, and how far they spread.

Legend: S = seeds, R = rounds that all of them evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfleet.reports.measures import Measures, Point, first_at, measure, points_of
from fedfleet.reports.record import Record
from fedfleet.reports.settings import (
    differing,
    flat_settings,
    identity,
    short_names,
    shown_value,
)
from fedfleet.tables import printable

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Records of one recipe, each of another seed. ``label`` tells the group from the others."""

    label: str
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Spread:
    """What a number is over the seeds.

    Args:
        mean: over the runs that have it; None where none has.
        deviation: the sample's standard deviation; None for fewer than two.
        count, total: the runs that have the number, and all runs.
    """

    mean: float | None
    deviation: float | None
    count: int
    total: int


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a figure: mean over the seeds, smallest and largest; each of shape (R,)."""

    x: Values
    mean: Values
    low: Values
    high: Values


def group_records(records: Sequence[Record]) -> list[Group]:
    """Put records together that differ only in the seed, in the order in which they came."""
    found: dict[tuple[str, str, int], list[Record]] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for record in records:
        settings = _settings(record)
        seed = identity(settings.pop("seed", None))
        key = (record.facts.source, identity(settings))
        # The same seed once more is no other seed: it belongs to a group of its own.
        run = (*key, seed)
        seen[run] = seen.get(run, 0) + 1
        found.setdefault((*key, seen[run]), []).append(record)
    groups = [sorted(one, key=lambda record: record.facts.seed) for one in found.values()]
    labels = _labels([one[0] for one in groups])
    return [Group(label, tuple(one)) for label, one in zip(labels, groups, strict=True)]


def _settings(record: Record) -> dict[str, Any]:
    """What was run. Any: what TOML can hold.

    The data folder is left out: the same data set lies elsewhere on another machine.
    """
    options = {name: one for name, one in record.facts.options.items() if name != "data_dir"}
    return {**flat_settings(record.recipe), **options}


def _labels(records: Sequence[Record]) -> list[str]:
    """The recipes' names where they differ, and what else tells the runs of one name apart."""
    settings = [_settings(record) for record in records]
    has_names = len({record.facts.name for record in records}) > 1
    has_sources = len({record.facts.source for record in records}) > 1
    labels = []
    for record, one in zip(records, settings, strict=True):
        alike = [other for other in settings if other.get("name") == one.get("name")]
        names = [name for name in differing(alike) if name != "seed"]
        short = short_names(names)
        parts = [printable(record.facts.name)] if has_names or not names else []
        parts += [f"{short[name]} = {shown_value(one[name])}" for name in names if name in one]
        parts += [record.facts.source] if has_sources else []
        labels.append(", ".join(parts) or printable(record.facts.name))
    return [
        label if labels.count(label) == 1 else f"{label} ({printable(record.facts.run_id)})"
        for label, record in zip(labels, records, strict=True)
    ]


def spread(values: Sequence[float | None]) -> Spread:
    """The mean of the values that are there, and how far they lie apart."""
    having = [value for value in values if value is not None]
    return Spread(
        mean=fmean(having) if having else None,
        deviation=stdev(having) if len(having) > 1 else None,
        count=len(having),
        total=len(values),
    )


def spread_of(group: Group, value: Callable[[Measures], float | None]) -> Spread:
    """A measure over the group's seeds."""
    return spread([value(measure(record)) for record in group.records])


def spread_at(group: Group, target: float, value: Callable[[Point], float | None]) -> Spread:
    """What was spent until the target was reached, over the group's seeds."""
    firsts = [first_at(record, target) for record in group.records]
    return spread([None if first is None else value(first) for first in firsts])


def curve_of(
    group: Group, x: Callable[[Point], float | None], y: Callable[[Point], float]
) -> Curve | None:
    """The group's line over the rounds that each of its seeds evaluated; None where it has none."""
    by_round = [{point.round: point for point in points_of(record)} for record in group.records]
    by_round = [points for points in by_round if points]
    if not by_round:
        return None
    shared = sorted(set.intersection(*(set(points) for points in by_round)))
    xs = [[x(points[number]) for number in shared] for points in by_round]
    if not shared or any(value is None for row in xs for value in row):
        return None
    xs_SR = np.array(xs, np.float64)
    ys_SR = np.array([[y(points[number]) for number in shared] for points in by_round])
    return Curve(xs_SR.mean(axis=0), ys_SR.mean(axis=0), ys_SR.min(axis=0), ys_SR.max(axis=0))
