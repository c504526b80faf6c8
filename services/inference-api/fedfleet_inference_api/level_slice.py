"""Cuts a version to a width that a small device can serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn.modules.batchnorm import _NormBase

from fedfleet.errors import RecipeInvalid, VersionInvalid
from fedfleet.models.card import ModelCard
from fedfleet.rounds.levels import FULL, LevelsConfig
from fedfleet.store.protocols import VersionRecord
from fedfleet.training.submodels import SubModels, build_for_shapes
from fedfleet.types import ModelState

# Of a run without levels: those that a recipe's table [levels] has unless it says otherwise.
_USUAL = LevelsConfig()


def at_level(
    record: VersionRecord, card: ModelCard, state: ModelState, level: str
) -> tuple[ModelCard, ModelState]:
    """The card and the weights of a level: the first channels of every layer, as in its run.

    As each worker evaluates its level: nothing is divided by the rate (HeteroFL's scaler is of
    training alone). Running statistics are of the whole width, and only examples, which are not
    here, would tell those of a narrower one.

    Raises:
        VersionInvalid: there is no such level, or the model has running statistics.
    """
    if level == FULL:
        return card, state
    title = f"{record.model} version {record.number}"
    rates = _rates(record.lineage)
    if level not in rates:
        known = ", ".join([FULL, *sorted(rates)])
        raise VersionInvalid(f"FEDFLEET_SERVE_LEVEL={level}: {title} has the levels {known}")
    if any(
        isinstance(layer, _NormBase) and layer.track_running_stats
        for layer in build_for_shapes(card).modules()
    ):
        raise VersionInvalid(
            f"FEDFLEET_SERVE_LEVEL={level}: {title} has batch normalisation, whose statistics are "
            'of the whole width; serve level a, or train with model.norm = "group" or "layer"'
        )
    try:
        models = SubModels(card, (1.0, rates[level]))
    except RecipeInvalid as error:
        raise VersionInvalid(
            f"FEDFLEET_SERVE_LEVEL={level}: {title} cannot be cut: {error.message}"
        ) from error
    narrow = models.levels[-1]
    return models.card(narrow), models.slice(narrow).cut(state)


# Any: a JSON value.
def _rates(lineage: Mapping[str, Any]) -> Mapping[str, float]:
    """The width of each level but the whole one."""
    found = lineage.get("levels")
    if not isinstance(found, Mapping):
        return dict(zip(_USUAL.names[1:], _USUAL.rates[1:], strict=True))
    return {
        name: rate
        for name, rate in found.items()
        if isinstance(name, str) and isinstance(rate, float) and 0 < rate < 1
    }
