"""Levels of the recipe, and who gets which."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import RecipeInvalid
from fedfleet.rounds.levels import LevelsConfig, assigned_level, lane_of_level, level_of_lane
from fedfleet.rounds.recipe import parse_recipe

RECIPE = """
name = "levels"
[model]
architecture = "mlp"
[data]
dataset = "digits"
partition = "iid"
workers = 8
[rounds]
rounds = 2
cohort = 4
[algorithm]
name = "{algorithm}"
{more}
"""


def test_levels_are_named_from_the_widest_on() -> None:
    assert LevelsConfig().names == ("a", "b", "c", "d", "e")
    assert [lane_of_level(name) for name in "ab"] == ["", "b"]
    assert [level_of_lane(lane) for lane in ("", "b")] == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rates": (0.5, 0.25)}, "begin with 1.0"),
        ({"rates": (1.0, 0.5, 0.5)}, "fall"),
        ({"rates": (1.0, 0.0)}, "stay > 0"),
        ({"rates": ()}, "1 to 16"),
        ({"rates": (1.0, 0.5), "shares": (1.0,)}, "one per rate"),
        ({"rates": (1.0, 0.5), "shares": (0.5, 0.4)}, "add up to 0.9"),
        ({"workers": {"pi": "z"}}, "must be one of a, b"),
        ({"assignment": "measured"}, "target_s"),
        ({"target_s": 3.0}, "target_s"),
        ({"assignment": "measured", "target_s": 0.0}, "above 0"),
    ],
)
def test_levels_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelsConfig(**fields)


def test_fixed_levels_come_in_blocks_of_the_fleet() -> None:
    config = LevelsConfig(rates=(1.0, 0.5, 0.25), shares=(0.25, 0.25, 0.5))

    found = [
        assigned_level(config, f"worker-{i}", seed=1, round=r, workers=8)
        for r in (1, 2)
        for i in range(8)
    ]

    assert found == ["a", "a", "b", "b", "c", "c", "c", "c"] * 2


def test_named_workers_have_the_level_that_the_recipe_says() -> None:
    config = LevelsConfig(workers={"pi-7": "e"}, assignment="dynamic")

    assert {assigned_level(config, "pi-7", seed=1, round=r, workers=None) for r in range(9)} == {
        "e"
    }


@given(seed=st.integers(0, 2**63 - 1))
def test_chance_keeps_to_the_shares(seed: int) -> None:
    config = LevelsConfig(rates=(1.0, 0.5), shares=(0.2, 0.8), assignment="dynamic")

    found = Counter(
        assigned_level(config, "pi", seed=seed, round=round, workers=None) for round in range(400)
    )

    assert 0.08 < found["a"] / 400 < 0.35


def test_a_level_without_a_share_is_given_to_nobody() -> None:
    config = LevelsConfig(rates=(1.0, 0.5, 0.25), shares=(0.5, 0.5, 0.0))

    assert {config.at(place / 1000) for place in range(1000)} | {config.at(1 - 1e-12)} == {"a", "b"}


@pytest.mark.parametrize(
    ("algorithm", "more", "message"),
    [
        ("heterofl", "", "needs the table"),
        ("scaffold", "[levels]", "not defined for workers with narrower"),
        ("fedavgm", "[levels]", "not defined for workers with narrower"),
        ("fedavg", 'weighting = "participation"\n[levels]', "corrects a mean"),
        ("heterofl", '[levels]\nsubmodel = "rolling"\n[wire]\ndownlink = "int8"', "rolling"),
        ("heterofl", '[levels]\nsubmodel = "rolling"\n[wire]\nuplink = "topk:0.1"', "rolling"),
        ("heterofl", "[levels]\nrate = 3", "unknown field"),
    ],
)
def test_recipes_that_levels_do_not_fit_are_refused(
    algorithm: str, more: str, message: str
) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        parse_recipe(RECIPE.format(algorithm=algorithm, more=more))


@pytest.mark.parametrize(
    ("algorithm", "more", "message"),
    [("fedavg", "", "is missing"), ("fedsgd", "[levels]", "leave one of them out")],
)
def test_ordered_dropout_wants_levels_and_an_algorithm_that_trains(
    algorithm: str, more: str, message: str
) -> None:
    text = RECIPE.format(algorithm=algorithm, more=more)
    text += "[training]\nordered_dropout = true\nbatch_size = 0\n"

    with pytest.raises(RecipeInvalid, match=message):
        parse_recipe(text)


@pytest.mark.parametrize(("algorithm", "options"), [("heterofl", ""), ("fedprox", "mu = 0.1\n")])
def test_recipe_with_levels_is_read(algorithm: str, options: str) -> None:
    levels = options + "[levels]\nrates = [1.0, 0.5]"

    recipe = parse_recipe(RECIPE.format(algorithm=algorithm, more=levels))

    assert recipe.levels == LevelsConfig(rates=(1.0, 0.5))
