"""Folds the updates of a round into one aggregate, treating the three kinds of state as three.

Trainable deltas (and sections that an algorithm adds) are averaged by weight; statistics follow a
policy; counters are never averaged. Memory is O(model) whatever the number of updates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedfleet.aggregation.exact_sum import ExactSum, SumBounds, check_values
from fedfleet.errors import SchemaMismatch, UpdateInvalid, UpdateOutOfRange
from fedfleet.types import Array, Kind, Schema, Update, UpdateSection

# A delta of one weight by more than this in one round is divergence, not training.
MAX_ABS_TRAINABLE = 2.0**10
# Running means and variances of inputs that were not normalised can be large.
MAX_ABS_STATISTIC = 2.0**40
# A worker adds its steps to what it receives; far from here int64 would wrap.
MAX_COUNTER = 2**53

StatisticsPolicy = Literal["average", "pooled"]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a round's updates come to.

    Args:
        means: weighted mean of each section of kind trainable, by section name, float64.
        statistics: the next running statistics, float32, shape (S,).
        counters: the largest of the workers' counters, int64, shape (N,).
        updates: how many updates are in it.
        total_weight: the sum of their weights.
    """

    means: Mapping[str, Array]
    statistics: Array
    counters: Array
    updates: int
    total_weight: float


@dataclass(frozen=True, eq=False)
class Totals:
    """The sums of some updates of one schema.

    Args:
        sums: weighted sum of each section of kind trainable, by section name, float64.
        moments: weighted sum of the statistics (of second moments, for pooled variances), float64.
        counters: the largest of the workers' counters, int64, shape (N,).
        weight: of all updates.
        class_weights: of the updates whose workers said which classes they have, by class.
        all_classes_weight: of the updates whose workers did not.
    """

    sums: Mapping[str, Array]
    moments: Array
    counters: Array
    updates: int
    weight: float
    class_weights: Mapping[int, float]
    all_classes_weight: float


class UpdateAccumulator:
    """Adds updates in any order; the aggregate is bit-identical for every order.

    Args:
        max_updates, max_weight: bounds on the number of updates and on the weight of one.
        policy: ``average`` takes weighted means of running means and variances; ``pooled`` gives
            the variance of the union: sum p_i (var_i + mean_i^2) - (sum p_i mean_i)^2.
        extra: names of the trainable sections that the algorithm adds to the built-in ones.

    Attributes:
        updates: how many were added.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        policy: StatisticsPolicy,
        max_updates: int,
        max_weight: float,
        extra: tuple[str, ...] = (),
    ) -> None:
        self._schema = schema
        self._kinds = {kind.value: kind for kind in Kind} | dict.fromkeys(extra, Kind.TRAINABLE)
        total = max_updates * max_weight
        self._sums = {
            name: ExactSum(
                schema.elements(kind), SumBounds(total_weight=total, max_abs=MAX_ABS_TRAINABLE)
            )
            for name, kind in self._kinds.items()
            if kind is Kind.TRAINABLE
        }
        self._statistics = ExactSum(
            schema.elements(Kind.STATISTIC),
            SumBounds(total_weight=total, max_abs=MAX_ABS_STATISTIC, fine=True),
        )
        self._counters = np.zeros(schema.elements(Kind.COUNTER), np.int64)
        self._variances = mean_variance_pairs(schema)
        self._pairs = self._variances if policy == "pooled" else ()
        self._classes: dict[int, float] = {}
        self._uncounted = 0.0
        self.updates = 0

    def check(self, update: Update) -> None:
        """Check an update before it is admitted; ``add`` takes only what passed here.

        Raises:
            SchemaMismatch, UpdateInvalid, UpdateNotFinite, UpdateOutOfRange: do not admit it.
        """
        if update.header.schema_digest != self._schema.digest:
            raise SchemaMismatch(
                f"the update is of model schema {update.header.schema_digest[:12]}, the run's is "
                f"{self._schema.digest[:12]}; worker and coordinator must run the same release"
            )
        self._check_sections(update)
        for section in update.sections:
            if section.elements != self._schema.elements(section.kind):
                raise UpdateInvalid(
                    f"section {section.name} holds {section.elements} values, "
                    f"the schema asks for {self._schema.elements(section.kind)}"
                )
            if section.kind is Kind.TRAINABLE:
                _check_trainable(section)
            elif section.kind is Kind.STATISTIC:
                check_values(section.values, MAX_ABS_STATISTIC)
                self._check_variances(section.values)
                check_values(self._moments(section.values), MAX_ABS_STATISTIC)
            elif section.elements and not 0 <= section.values.min() <= section.values.max() <= (
                MAX_COUNTER
            ):
                raise UpdateOutOfRange(
                    f"a counter is negative or above {MAX_COUNTER}; it counts no training"
                )

    def _check_variances(self, values: Array) -> None:
        for _, variance in self._variances:
            if (values[variance] < 0).any():
                raise UpdateOutOfRange("a running variance is negative; it measures nothing")

    def _check_sections(self, update: Update) -> None:
        """Take exactly the sections that were asked for: one more would count twice, or alone."""
        found = sorted((section.name, section.kind.value) for section in update.sections)
        wanted = sorted((name, kind.value) for name, kind in self._kinds.items())
        if found != wanted:
            raise UpdateInvalid(
                f"the update's sections are {_listed(found)}; expected: {_listed(wanted)}"
            )

    def add(self, update: Update, weight: float, classes: Collection[int] | None = None) -> None:
        """Fold one checked update in, block by block; ``weight`` is at most ``max_weight``.

        Args:
            classes: those that the worker has examples of, where that matters; else None.
        """
        before = self._statistics.total_weight
        for section in update.sections:
            if section.kind is Kind.TRAINABLE:
                _add_trainable(self._sums[section.name], section, weight)
            elif section.kind is Kind.STATISTIC:
                self._statistics.add(self._moments(section.values), weight)
            else:
                np.maximum(self._counters, section.values, out=self._counters)
        self.updates += 1
        # What the sums have taken it for: rounded, so that these add up exactly too.
        counted = self._statistics.total_weight - before
        if classes is None:
            self._uncounted += counted
        for label in classes or ():
            self._classes[label] = self._classes.get(label, 0.0) + counted

    def totals(self) -> Totals:
        """What was added, before any division."""
        return Totals(
            sums={name: total.total() for name, total in self._sums.items()},
            moments=self._statistics.total(),
            counters=self._counters,
            updates=self.updates,
            weight=self._statistics.total_weight,
            class_weights=self._classes,
            all_classes_weight=self._uncounted,
        )

    def result(self) -> Aggregate:
        """Return the aggregate of what was added so far.

        Raises:
            UpdateInvalid: no update was added.
        """
        statistics = self._statistics.mean()
        central(statistics, self._pairs)
        return Aggregate(
            means={name: total.mean() for name, total in self._sums.items()},
            statistics=statistics.astype(np.float32),
            counters=self._counters.copy(),
            updates=self.updates,
            total_weight=self._statistics.total_weight,
        )

    def _moments(self, values: Array) -> Array:
        """Running variances as second moments, which can be averaged (pooled policy only)."""
        if not self._pairs:
            return values
        moments = values.astype(np.float64)
        for mean, variance in self._pairs:
            moments[variance] += moments[mean] ** 2
        return moments


def _check_trainable(section: UpdateSection) -> None:
    sparse = section.sparse()
    values = (sparse[1],) if sparse else (block for _, block in section.blocks())
    for block in values:
        check_values(block, MAX_ABS_TRAINABLE)


def _add_trainable(total: ExactSum, section: UpdateSection, weight: float) -> None:
    sparse = section.sparse()
    if sparse:
        total.add_sparse(*sparse, weight)
    else:
        total.add_blocks(section.blocks, weight)


def _listed(sections: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sections)[:200] or "none"


def central(statistics: Array, pairs: Iterable[tuple[slice, slice]]) -> None:
    """Turn second moments into variances, in place."""
    for mean, variance in pairs:
        statistics[variance] -= statistics[mean] ** 2
        np.maximum(statistics[variance], 0.0, out=statistics[variance])


def mean_variance_pairs(schema: Schema) -> tuple[tuple[slice, slice], ...]:
    """Places of each running mean and its variance in the statistics vector."""
    places = {param.name: place for param, place in schema.layout(Kind.STATISTIC)}
    suffix = "running_mean"
    return tuple(
        (place, places[name.removesuffix(suffix) + "running_var"])
        for name, place in places.items()
        if name.endswith(suffix) and name.removesuffix(suffix) + "running_var" in places
    )
