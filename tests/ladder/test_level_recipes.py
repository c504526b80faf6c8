"""A fleet with levels learns: the shipped recipe of digits, shortened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedfleet.data.shard import Shards
from fedfleet.rounds.card import card_of
from fedfleet.rounds.levels import assigned_level
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.training.trainers import Trainers

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "levels").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_has_workers_at_every_level(path: Path):
    recipe = parse_recipe(path.read_text())
    workers, levels = recipe.data.workers, recipe.levels

    assert levels is not None
    assert workers is not None
    found = {
        assigned_level(levels, f"worker-{i}", seed=0, round=1, workers=workers)
        for i in range(workers)
    }

    assert found == set("abcde")


def shortened(rounds: int) -> Recipe:
    text = next(path for path in RECIPES if path.stem == "digits").read_text()
    text = text.replace('workers = "all"', "every = 100")
    return parse_recipe(re.sub(r"rounds = \d+", f"rounds = {rounds}", text))


def test_digits_with_mixed_levels_are_learnt_at_the_wide_levels():
    """Four rounds: the whole model, and half of it, as their workers would use them."""
    recipe = shortened(4)

    simulation = simulate(recipe)

    trainers = Trainers(card_of(recipe), recipe.training, recipe.evaluation, recipe.levels)
    test = Shards(recipe.data, seed=recipe.seed, data_dir=None).load("test", None)
    models = trainers.models
    assert models is not None
    found = {
        level: trainers.at(level).evaluate(models.slice(level).cut(simulation.state), test).accuracy
        for level in "abe"
    }
    # By chance it would be 0.1. A sixteenth of the width has two channels, and learns later.
    assert min(found["a"], found["b"]) > 0.7
    assert found["a"] > found["e"]
    assert simulation.rounds[-1].levels == {f"worker-{i}": "abcde"[i] for i in range(1, 5)}
