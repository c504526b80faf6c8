"""Static batch normalisation: the statistics of a version, measured by the workers that carry it.

HeteroFL (Diao et al. 2021, arXiv:2010.01264, section 3.2): training uses the statistics of each
batch alone, and models of other widths have other statistics, so their means would fit no model.
Instead workers measure the aggregated model on their examples before it is published, and nothing
but these statistics leaves the device. The paper queries one worker after the other; here each
measures from nothing, and their results are added up. Beside the whole width each measures its
narrower slices, so that a version can be served at the width of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from fedfleet.wire.limits import (
    MAX_LEVEL_STATISTICS,
    MAX_REQUEST_BYTES,
    REPORT_ENVELOPE_BYTES,
)

# In a message: a float32, and the most that a 64-bit count takes.
_FLOAT_BYTES, _COUNTER_BYTES = 4, 10


def needs_queries(recipe: Recipe, schema: Schema) -> bool:
    """Whether a run's rounds ask workers for the statistics of what they came to."""
    levels = recipe.levels
    return levels is not None and levels.static_norm and schema.elements(Kind.STATISTIC) > 0


def queried_levels(recipe: Recipe, schema_of: Callable[[str], Schema]) -> dict[str, Schema]:
    """The narrower levels whose statistics a query measures, with the schemas of their models.

    None with rolling slices: those of the next round have others. A level that would make the
    report too large is left out.

    Args:
        schema_of: the model at a level.
    """
    config = recipe.levels
    if config is None or not config.static_norm or config.submodel == "rolling":
        return {}
    found: dict[str, Schema] = {}
    room = min(MAX_LEVEL_STATISTICS, _room_beside(schema_of(config.names[0])))
    for level in config.names[1:]:
        schema = schema_of(level)
        if 0 < schema.elements(Kind.STATISTIC) <= room:
            room -= schema.elements(Kind.STATISTIC)
            found[level] = schema
    return found


def _room_beside(whole: Schema) -> int:
    """How many float32 values fit into a report beside those of the whole width."""
    own = _FLOAT_BYTES * whole.elements(Kind.STATISTIC) + _COUNTER_BYTES * whole.elements(
        Kind.COUNTER
    )
    return (MAX_REQUEST_BYTES - REPORT_ENVELOPE_BYTES - own) // _FLOAT_BYTES


@dataclass(frozen=True, eq=False)
class Measured:
    """What one worker measured.

    Args:
        samples: examples behind it, > 0.
        statistics: float32, shape (S,).
        counters: int64, shape (N,): batches that were looked at.
        levels: statistics of narrower slices, by level: float32, shape (S_level,). A worker of an
            older release sends none.
    """

    samples: int
    statistics: FloatVector
    counters: CounterVector
    levels: Mapping[str, FloatVector] = field(default_factory=dict)


def check_measured(
    measured: Measured, schema: Schema, most_samples: float, levels: Mapping[str, Schema]
) -> None:
    """Check what a worker sent.

    Args:
        most_samples: of one worker, as the recipe bounds the weight of an update.
        levels: what ``queried_levels`` gave.

    Raises:
        UpdateInvalid, UpdateNotFinite, UpdateOutOfRange: it is not a measurement of this model.
    """
    _check_statistics(measured.statistics, schema)
    for level, vector in measured.levels.items():
        if level not in levels:
            raise UpdateInvalid(f"statistics of level {level[:16]!r}, which is not asked for")
        _check_statistics(vector, levels[level])
    if not 0 < measured.samples <= most_samples:
        raise UpdateInvalid(
            f"statistics over {measured.samples} examples: must be above 0 and at most "
            f"rounds.max_weight = {most_samples:g}"
        )
    counters = measured.counters
    _check_length("counters", counters.shape, schema.elements(Kind.COUNTER))
    if counters.size and not 0 <= counters.min() <= counters.max() <= measured.samples:
        raise UpdateInvalid("a counter is negative, or counts more batches than there are examples")


def _check_statistics(statistics: FloatVector, schema: Schema) -> None:
    _check_length("statistics", statistics.shape, schema.elements(Kind.STATISTIC))
    check_values(statistics, MAX_ABS_STATISTIC)
    for _, variance in mean_variance_pairs(schema):
        if (statistics[variance] < 0).any():
            raise UpdateOutOfRange("a running variance is negative")


def _check_length(name: str, shape: tuple[int, ...], elements: int) -> None:
    if shape != (elements,):
        raise UpdateInvalid(f"{name} of shape {shape}, the model's schema has {elements}")


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
    return replace(
        state,
        statistics=_mean([(one.samples, one.statistics) for one in measured], state.schema, policy),
        counters=np.maximum.reduce([one.counters for one in measured]),
    )


def level_statistics(
    measured: Sequence[Measured], levels: Mapping[str, Schema], policy: StatisticsPolicy
) -> dict[str, FloatVector]:
    """The statistics of a state's narrower slices; without the levels that nobody measured.

    Args:
        measured, policy: as for ``with_measured``.
        levels: what ``queried_levels`` gave.
    """
    found: dict[str, FloatVector] = {}
    for level, schema in levels.items():
        parts = [(one.samples, one.levels[level]) for one in measured if level in one.levels]
        if parts:
            found[level] = _mean(parts, schema, policy)
    return found


def _mean(
    parts: Sequence[tuple[int, FloatVector]], schema: Schema, policy: StatisticsPolicy
) -> FloatVector:
    """The mean of some workers' statistics, by their numbers of examples."""
    pairs = mean_variance_pairs(schema) if policy == "pooled" else ()
    total = np.zeros(schema.elements(Kind.STATISTIC))
    for samples, statistics in parts:
        moments = statistics.astype(np.float64)
        for mean, variance in pairs:
            moments[variance] += moments[mean] ** 2
        total += samples * moments
    total /= sum(samples for samples, _ in parts)
    central(total, pairs)
    return total.astype(np.float32)
