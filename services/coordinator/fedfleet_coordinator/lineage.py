"""What a version's record says of how it came about, beside its run, round and parent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from fedfleet.rounds.recipe import Recipe


def lineage_of(recipe: Recipe, cohort: int) -> dict[str, Any]:
    """The lineage, a JSON object.

    Args:
        cohort: how many workers were asked to train in its round.
    """
    return {
        "recipe": hashlib.sha256(recipe.source.encode()).hexdigest(),
        "algorithm": recipe.algorithm.name,
        "dataset": recipe.data.dataset,
        "cohort": cohort,
        **({"levels": _levels(recipe)} if recipe.levels else {}),
        "software": dict(_software()),
    }


def _levels(recipe: Recipe) -> Mapping[str, float]:
    """Width of each level as a share of the model: what the version can be cut to."""
    assert recipe.levels is not None
    return dict(zip(recipe.levels.names, recipe.levels.rates, strict=True))


@lru_cache(maxsize=1)
def _software() -> Mapping[str, str]:
    return {name: version(name) for name in ("fedfleet", "torch")}
