from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedfleet_inference_api.cameras.assignment import best_pairs

LEAST = 0.2
GAINS = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    # Tenths, so that ties are common.
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 10).map(lambda n: n / 10))
)


def best_sum(gains: np.ndarray) -> float:
    """By trying every assignment."""
    allowed = np.where(gains >= LEAST, gains, 0.0)
    if allowed.shape[0] > allowed.shape[1]:
        allowed = allowed.T
    rows = range(allowed.shape[0])
    return max(
        sum(allowed[row, column] for row, column in zip(rows, chosen, strict=True))
        for chosen in permutations(range(allowed.shape[1]), len(rows))
    )


@given(GAINS)
def test_best_pairs_gain_as_much_as_any_assignment(gains: np.ndarray):
    pairs = best_pairs(gains, LEAST)

    assert abs(sum(gains[pair] for pair in pairs) - best_sum(gains)) < 1e-9


@given(GAINS)
def test_best_pairs_uses_each_once_and_only_pairs_above_the_limit(gains: np.ndarray):
    pairs = best_pairs(gains, LEAST)

    assert all(gains[pair] >= LEAST for pair in pairs)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert pairs == sorted(pairs)


def test_best_pairs_of_nobody_is_nothing():
    assert best_pairs(np.zeros((0, 3)), LEAST) == best_pairs(np.zeros((3, 0)), LEAST) == []


def test_best_pairs_gives_up_the_best_pair_for_a_better_sum():
    assert best_pairs(np.array([[0.9, 0.8], [0.8, 0.0]]), LEAST) == [(0, 1), (1, 0)]
