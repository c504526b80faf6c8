from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.rounds.selection import propensity, select_skewed, select_uniform

names = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12).map(sorted)
seeds = st.integers(0, 2**63 - 1)


@given(names, st.integers(1, 12), seeds, st.randoms(use_true_random=False))
def test_selection_is_a_sorted_subset_of_the_size_whatever_the_order(
    candidates: list[str], size: int, seed: int, random: object
) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's Random

    chosen = select_uniform(shuffled, size, seed)

    assert chosen == select_uniform(candidates, size, seed)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(candidates)
    assert len(chosen) == min(size, len(candidates))


def test_each_candidate_and_each_pair_is_drawn_equally_often() -> None:
    draws, size, count = 6000, 2, 6
    candidates = [f"w{i}" for i in range(count)]

    chosen = [select_uniform(candidates, size, seed) for seed in range(draws)]

    singles = Counter(name for pair in chosen for name in pair)
    pairs = Counter(chosen)
    assert len(singles) == count
    assert len(pairs) == math.comb(count, size)
    for found, share in ((singles, size / count), (pairs, 1 / math.comb(count, size))):
        deviation = math.sqrt(draws * share * (1 - share))
        assert all(abs(n - draws * share) < 4.5 * deviation for n in found.values())


def test_draws_of_neighbouring_seeds_are_independent() -> None:
    candidates = [f"w{i}" for i in range(4)]

    first = [select_uniform(candidates, 1, seed)[0] for seed in range(4001)]

    same = sum(a == b for a, b in itertools.pairwise(first))
    assert abs(same - 1000) < 4.5 * math.sqrt(4000 * 0.25 * 0.75)


def test_selection_is_the_same_in_another_process() -> None:
    code = (
        "from fedfleet.rounds.selection import select_uniform;"
        "print(*select_uniform([f'w{i}' for i in range(50)], 5, 7))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert tuple(printed) == select_uniform([f"w{i}" for i in range(50)], 5, 7)
    assert printed == ["w32", "w37", "w43", "w47", "w5"]  # found with sha256sum and sort


@given(names, st.integers(1, 12), seeds, seeds, st.floats(0.05, 50))
def test_skewed_selection_is_a_sorted_subset_of_the_size(
    candidates: list[str], size: int, run_seed: int, draw_seed: int, skew: float
) -> None:
    chosen = select_skewed(candidates, size, skew, run_seed, draw_seed)

    assert chosen == select_skewed(candidates[::-1], size, skew, run_seed, draw_seed)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(candidates)
    assert len(chosen) == min(size, len(candidates))


def test_skewed_selection_draws_in_proportion_to_the_propensities() -> None:
    candidates = [f"w{i}" for i in range(5)]
    weights = {name: propensity(name, 1.0, 3) for name in candidates}
    draws = 8000

    single = Counter(select_skewed(candidates, 1, 1.0, 3, seed)[0] for seed in range(draws))
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(single[name] - draws * share) < 5 * math.sqrt(draws * share * (1 - share)) + 1

    # Of pairs: the first by propensity, then the second among the rest.
    pairs = Counter(select_skewed(candidates, 2, 1.0, 3, seed) for seed in range(draws))
    total = sum(weights.values())
    for one, two in itertools.combinations(candidates, 2):
        a, b = weights[one] / total, weights[two] / total
        share = a * b / (1 - a) + b * a / (1 - b)
        assert abs(pairs[one, two] - draws * share) < 5 * math.sqrt(draws * share) + 1


def test_smaller_skew_is_more_unequal_participation() -> None:
    candidates = [f"w{i}" for i in range(40)]

    def busiest(skew: float) -> float:
        counts = Counter(
            name for seed in range(300) for name in select_skewed(candidates, 4, skew, 1, seed)
        )
        return sum(sorted(counts.values())[-8:]) / sum(counts.values())

    assert busiest(0.05) > busiest(0.5) > busiest(5.0) > 0.2


@pytest.mark.parametrize("skew", [0.3, 1.0, 4.0])
def test_propensities_have_the_mean_and_variance_of_a_gamma_variate(skew: float) -> None:
    drawn = [propensity(f"w{i}", skew, 5) for i in range(4000)]

    mean = sum(drawn) / len(drawn)
    variance = sum((one - mean) ** 2 for one in drawn) / len(drawn)
    # Both are skew; the variance's own spread is that of a heavy tail.
    assert abs(mean - skew) < 5 * math.sqrt(skew / len(drawn))
    assert abs(variance - skew) < 0.25 * skew
