"""Settings of an engine that would be ignored, or mean nothing, are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedfleet.errors import RecipeInvalid
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.engines import EngineSettings, opened_engine
from fedfleet.sim.processes import check_text

RECIPE = """
name = "engines"
[model]
architecture = "mlp"
hidden = [4]
[data]
dataset = "synthetic"
partition = "iid"
workers = 4
[rounds]
rounds = 1
cohort = 2
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "threads"},
        {"device": "tpu"},
        {"processes": 2},
        {"engine": "processes", "processes": 0},
        {"engine": "processes", "address": "127.0.0.1:6379"},
        {"address": "127.0.0.1:6379"},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(settings))):
        EngineSettings(**settings)


def test_engine_of_this_process_is_no_engine_to_open() -> None:
    with opened_engine(EngineSettings(), parse_recipe(RECIPE), None) as engine:
        assert engine is None


def test_check_text_refuses_a_recipe_that_is_not_its_text() -> None:
    recipe = parse_recipe(RECIPE)

    check_text(recipe)
    with pytest.raises(RecipeInvalid, match="changed"):
        check_text(replace(recipe, seed=recipe.seed + 1))
