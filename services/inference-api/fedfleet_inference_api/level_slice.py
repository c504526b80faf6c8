"""Cuts a version to a width that a small device can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.nn.modules.batchnorm import _NormBase

from fedfleet.aggregation.accumulator import mean_variance_pairs
from fedfleet.errors import RecipeInvalid, VersionInvalid
from fedfleet.models.card import ModelCard
from fedfleet.rounds.levels import FULL
from fedfleet.store.protocols import VersionRecord
from fedfleet.training.submodels import SubModels, build_for_shapes
from fedfleet.types import FloatVector, ModelState
from fedfleet.wire.level_statistics import read_level_statistics
from fedfleet.wire.weights import decode_state


def at_level(
    record: VersionRecord, card: ModelCard, data: bytes, level: str
) -> tuple[ModelCard, ModelState]:
    """The card and the weights of a level: the first channels of every layer, as in its run.

    As each worker evaluates its level: nothing is divided by the rate (HeteroFL's scaler is of
    training alone). Running statistics of the whole width fit no other: those of the level come
    with the version.

    Args:
        data: the version's file.

    Raises:
        SchemaMismatch: the file is not of the record's model, or cannot be read.
        VersionInvalid: there is no such level, or nobody measured its running statistics.
    """
    state = decode_state(record.schema, data)
    if level == FULL:
        return card, state
    what = f"FEDFLEET_SERVE_LEVEL={level}: {record.model} version {record.number}"
    rate = _rate(record.lineage, level, what)
    try:
        models = SubModels(card, (1.0, rate))
    except RecipeInvalid as error:
        raise VersionInvalid(f"{what} cannot be cut: {error.message}") from error
    narrow = models.levels[-1]
    card, part = models.card(narrow), models.slice(narrow).cut(state)
    statistics = read_level_statistics(data).get(level)
    if statistics is not None:
        return card, _with_statistics(part, statistics, what)
    if _has_running_statistics(card):
        raise VersionInvalid(
            f"{what} has batch normalisation, and its round measured no statistics of this level; "
            "serve level a, or train it with [levels] static_norm = true, prefix slices and "
            "workers of this release"
        )
    return card, part


# Any: a JSON value.
def _rate(lineage: Mapping[str, Any], level: str, what: str) -> float:
    """The width of a level; slices that no worker trained would answer by chance."""
    levels = lineage.get("levels")
    if not isinstance(levels, Mapping):
        raise VersionInvalid(
            f"{what} was trained at its whole width only; serve level a, or train it with the "
            "table [levels] in its recipe"
        )
    narrow = {
        name: rate
        for name, rate in levels.items()
        if isinstance(name, str) and isinstance(rate, float) and 0 < rate < 1
    }
    if level not in narrow:
        raise VersionInvalid(f"{what} has the levels {', '.join([FULL, *sorted(narrow)])}")
    return narrow[level]


def _with_statistics(part: ModelState, statistics: FloatVector, what: str) -> ModelState:
    """Raises VersionInvalid: they are none of this model."""
    if statistics.shape != part.statistics.shape:
        raise VersionInvalid(
            f"{what} comes with {statistics.size} running statistics of this level, its model has "
            f"{part.statistics.size}"
        )
    if any((statistics[variance] < 0).any() for _, variance in mean_variance_pairs(part.schema)):
        raise VersionInvalid(f"{what} comes with a negative running variance of this level")
    return replace(part, statistics=statistics)


def _has_running_statistics(card: ModelCard) -> bool:
    return any(
        isinstance(layer, _NormBase) and layer.track_running_stats
        for layer in build_for_shapes(card).modules()
    )
