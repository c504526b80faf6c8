"""Static batch normalisation: the statistics of a version, measured by the workers that carry it.

HeteroFL (Diao et al. 2021, arXiv:2010.01264, section 3.2): training uses the statistics of each
batch alone, and models of other widths have other statistics, so their means would fit no model.
Instead workers measure the aggregated model on their examples before it is published, and nothing
but these statistics leaves the device. The paper queries one worker after the other; here each
measures from nothing, and their results are added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedfleet.aggregation.accumulator import (
    MAX_ABS_STATISTIC,
    StatisticsPolicy,
    central,
    mean_variance_pairs,
)
from fedfleet.aggregation.exact_sum import check_values
from fedfleet.errors import UpdateInvalid, UpdateOutOfRange
from fedfleet.rounds.recipe import Recipe
from fedfleet.types import CounterVector, FloatVector, Kind, ModelState, Schema


def needs_queries(recipe: Recipe, schema: Schema) -> bool:
    """Whether a run's rounds ask workers for the statistics of what they came to."""
    levels = recipe.levels
    return levels is not None and levels.static_norm and schema.elements(Kind.STATISTIC) > 0


@dataclass(frozen=True, eq=False)
class Measured:
    """What one worker measured.

    Args:
        samples: examples behind it, > 0.
        statistics: float32, shape (S,).
        counters: int64, shape (N,): batches that were looked at.
    """

    samples: int
    statistics: FloatVector
    counters: CounterVector


def check_measured(measured: Measured, schema: Schema, most_samples: float) -> None:
    """Check what a worker sent.

    Args:
        most_samples: of one worker, as the recipe bounds the weight of an update.

    Raises:
        UpdateInvalid, UpdateNotFinite, UpdateOutOfRange: it is not a measurement of this model.
    """
    for name, vector, kind in (
        ("statistics", measured.statistics, Kind.STATISTIC),
        ("counters", measured.counters, Kind.COUNTER),
    ):
        if vector.shape != (schema.elements(kind),):
            raise UpdateInvalid(
                f"{vector.size} {name}, the model's schema has {schema.elements(kind)}"
            )
    check_values(measured.statistics, MAX_ABS_STATISTIC)
    for _, variance in mean_variance_pairs(schema):
        if (measured.statistics[variance] < 0).any():
            raise UpdateOutOfRange("a running variance is negative")
    if not 0 < measured.samples <= most_samples:
        raise UpdateInvalid(
            f"statistics over {measured.samples} examples: must be above 0 and at most "
            f"rounds.max_weight = {most_samples:g}"
        )
    counters = measured.counters
    if counters.size and not 0 <= counters.min() <= counters.max() <= measured.samples:
        raise UpdateInvalid("a counter is negative, or counts more batches than there are examples")


def with_measured(
    state: ModelState, measured: Sequence[Measured], policy: StatisticsPolicy
) -> ModelState:
    """A state with the statistics that workers measured of it; as it was where none did.

    Args:
        measured: ordered by worker, so that every driver adds them up alike.
        policy: as in ``UpdateAccumulator``.
    """
    if not measured:
        return state
    pairs = mean_variance_pairs(state.schema)
    total = np.zeros(state.statistics.size)
    for one in measured:
        moments = one.statistics.astype(np.float64)
        if policy == "pooled":
            for mean, variance in pairs:
                moments[variance] += moments[mean] ** 2
        total += one.samples * moments
    total /= sum(one.samples for one in measured)
    if policy == "pooled":
        central(total, pairs)
    return replace(
        state,
        statistics=total.astype(np.float32),
        counters=np.maximum.reduce([one.counters for one in measured]),
    )
