from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import header

from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.history import History
from fedfleet.rounds.oort import OortOptions
from fedfleet.rounds.power_of_choice import PowerOfChoiceOptions
from fedfleet.rounds.propensity import SkewedOptions
from fedfleet.rounds.selection import (
    SELECTIONS,
    WITH_CHANCES,
    Ballot,
    Drawing,
    Drawn,
    WeightedOptions,
    check_selection,
    select,
)

names = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12).map(sorted)
seeds = st.integers(0, 2**63 - 1)
OPTIONS = {
    "uniform": None,
    "weighted": None,
    "skewed": SkewedOptions(skew=0.3),
    "power-of-choice": PowerOfChoiceOptions(candidates=6),
    "oort": OortOptions(),
}


def config(selection: str = "uniform", options: object = None, cohort: int = 2) -> RoundsConfig:
    return RoundsConfig(rounds=9, cohort=cohort, selection=selection, options=options)


def uniform(candidates: list[str], size: int, seed: int) -> tuple[str, ...]:
    ballot = Ballot(names=candidates, size=size, run_seed=1, draw_seed=seed)
    return select(config(), ballot).workers


@pytest.mark.parametrize("selection", SELECTIONS)
@given(names, st.integers(0, 14), seeds, st.randoms(use_true_random=False))
def test_selection_is_a_sorted_subset_of_the_size_whatever_the_order(
    selection: str, candidates: list[str], size: int, seed: int, chance: random.Random
) -> None:
    shuffled = list(candidates)
    chance.shuffle(shuffled)
    headers = [
        header(worker_id=name, weight=3.0 + i, metrics={"train_loss": 1.0 + i, "rms_loss": 2.0})
        for i, name in enumerate(candidates[::2])
    ]
    history = History().after(1, candidates[::2], headers, {})

    def draw(from_names: list[str]) -> Drawn:
        ballot = Ballot(
            names=from_names, size=size, round=2, history=history, run_seed=5, draw_seed=seed
        )
        return select(config(selection, OPTIONS[selection]), ballot)

    drawn = draw(candidates)
    chosen = drawn.workers

    assert chosen == draw(shuffled).workers
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(candidates)
    assert len(chosen) == min(size, len(candidates))
    assert drawn.corrections.keys() <= set(chosen)
    assert selection in WITH_CHANCES or not drawn.corrections


def test_each_candidate_and_each_pair_is_drawn_equally_often() -> None:
    draws, size, count = 6000, 2, 6
    candidates = [f"w{i}" for i in range(count)]

    chosen = [uniform(candidates, size, seed) for seed in range(draws)]

    singles = Counter(name for pair in chosen for name in pair)
    pairs = Counter(chosen)
    assert len(singles) == count
    assert len(pairs) == math.comb(count, size)
    for found, share in ((singles, size / count), (pairs, 1 / math.comb(count, size))):
        deviation = math.sqrt(draws * share * (1 - share))
        assert all(abs(n - draws * share) < 4.5 * deviation for n in found.values())


def test_draws_of_neighbouring_seeds_are_independent() -> None:
    candidates = [f"w{i}" for i in range(4)]

    first = [uniform(candidates, 1, seed)[0] for seed in range(4001)]

    same = sum(a == b for a, b in itertools.pairwise(first))
    assert abs(same - 1000) < 4.5 * math.sqrt(4000 * 0.25 * 0.75)


def test_selection_is_the_same_in_another_process() -> None:
    code = (
        "from fedfleet.rounds.config import RoundsConfig;"
        "from fedfleet.rounds.selection import Ballot, select;"
        "names = [f'w{i}' for i in range(50)];"
        "ballot = Ballot(names=names, size=5, run_seed=1, draw_seed=7);"
        "print(*select(RoundsConfig(rounds=1, cohort=5), ballot).workers)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert tuple(printed) == uniform([f"w{i}" for i in range(50)], 5, 7)
    assert printed == ["w32", "w37", "w43", "w47", "w5"]  # found with sha256sum and sort


def skewed(candidates: list[str], size: int, skew: float, seed: int) -> tuple[str, ...]:
    rounds = config("skewed", SkewedOptions(skew=skew))
    ballot = Ballot(names=candidates, size=size, run_seed=1, draw_seed=seed)
    return select(rounds, ballot).workers


def test_smaller_skew_is_more_unequal_participation() -> None:
    candidates = [f"w{i}" for i in range(40)]

    def busiest(skew: float) -> float:
        counts = Counter(name for seed in range(300) for name in skewed(candidates, 4, skew, seed))
        return sum(sorted(counts.values())[-8:]) / sum(counts.values())

    assert busiest(0.05) > busiest(0.5) > busiest(5.0) > 0.2


@pytest.mark.parametrize("by", ["samples", "propensities"])
def test_weighted_selection_draws_in_proportion(by: str) -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    history = History()
    options = WeightedOptions(propensities=weights)
    if by == "samples":
        headers = [header(worker_id=name, weight=10 * one) for name, one in weights.items()]
        history = history.after(1, weights, headers, {})
        options = WeightedOptions()
    draws = 4000

    counts = Counter(
        name
        for seed in range(draws)
        for name in select(
            config("weighted", options),
            Ballot(names=list(weights), size=2, history=history, run_seed=0, draw_seed=seed),
        ).workers
    )

    for name, one in weights.items():
        chance = 2 * one / 10
        assert abs(counts[name] - draws * chance) < 5 * math.sqrt(draws * chance * (1 - chance))


def test_drawing_keeps_the_corrections_of_all_that_it_drew() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0, "x": 1.0}
    rounds = config("weighted", WeightedOptions(propensities=weights))
    drawing = Drawing(rounds, Ballot(names=(), size=0, run_seed=0, draw_seed=1))

    first = drawing(["a", "b", "c"], 1)
    second = drawing(["x", "y"], 2)

    assert drawing(["a", "b", "c"], 1) == first
    # m / (N pi) with pi = weight / 6, and 1 where all are drawn.
    expected = {first[0]: 1 / (3 * weights[first[0]] / 6), "x": 1.0, "y": 1.0}
    assert second == ("x", "y")
    assert drawing.corrections == pytest.approx(expected)


def test_power_of_choice_takes_the_losses_that_workers_were_asked_for() -> None:
    rounds = config("power-of-choice", PowerOfChoiceOptions(candidates=3, loss="full"))
    ballot = Ballot(
        names=["a", "b", "c", "d"],
        size=2,
        run_seed=0,
        draw_seed=1,
        losses={"a": 0.5, "b": 3.0, "d": 1.0},
    )

    assert select(rounds, ballot).workers == ("b", "d")


def test_check_refuses_fewer_candidates_than_are_asked() -> None:
    rounds = config("power-of-choice", PowerOfChoiceOptions(candidates=3), cohort=4)

    with pytest.raises(ValueError, match=r"candidates = 3: must be at least cohort .* \(4\)"):
        check_selection(rounds)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_weighted_options_refuse_a_propensity_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match=r"propensities.a = .*: must be from 1e-9 to 1e9"):
        WeightedOptions(propensities={"a": value})
