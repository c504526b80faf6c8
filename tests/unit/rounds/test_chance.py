from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, islice

from hypothesis import given
from hypothesis import strategies as st

from fedfleet.rounds.chance import hashed, raced, share_of, shares, shuffled

names = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12).map(sorted)
seeds = st.integers(0, 2**63 - 1)


def test_shares_are_within_their_bounds_at_both_ends() -> None:
    assert share_of(b"\0" * 32) == 0.0
    assert share_of(b"\xff" * 32) < 1.0
    drawn = list(islice(shares(b"key"), 2000))
    assert all(0 < one <= 1 for one in drawn)
    assert abs(sum(drawn) / 2000 - 0.5) < 5 * math.sqrt(1 / 12 / 2000)


@given(names, seeds, st.integers(0, 14))
def test_race_of_equal_weights_is_the_beginning_of_the_shuffle(
    found: list[str], seed: int, size: int
) -> None:
    weights = dict.fromkeys(found, 3.5)

    assert raced(weights, size, seed) == shuffled(found, seed)[:size]


def test_race_draws_one_after_the_other_in_proportion_to_the_weights_left() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 0.5}
    draws = 8000

    pairs = Counter(tuple(sorted(raced(weights, 2, seed))) for seed in range(draws))

    total = sum(weights.values())
    for one, two in combinations(weights, 2):
        a, b = weights[one] / total, weights[two] / total
        share = a * b / (1 - a) + b * a / (1 - b)
        assert abs(pairs[one, two] - draws * share) < 5 * math.sqrt(draws * share) + 1


def test_race_comes_to_weights_of_zero_last() -> None:
    weights = {"a": 0.0, "b": 1e-12, "c": 1.0}

    assert {raced(weights, 3, seed)[2] for seed in range(50)} == {"a"}


def test_hash_of_a_name_depends_on_the_seed() -> None:
    assert hashed(1, "w") != hashed(2, "w")
