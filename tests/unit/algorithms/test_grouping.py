from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.algorithms.grouping import Described, Measure, Method, Sizes, balance, group
from fedfleet.types import Array

METHODS, MEASURES = get_args(Method), get_args(Measure)


def described(labels_NC: Array, samples: object = None) -> Described:
    count = len(labels_NC)
    weights = np.full(count, 10.0) if samples is None else np.asarray(samples, float)
    return Described(tuple(f"w{i:02d}" for i in range(count)), labels_NC, weights)


def skewed(workers: int, classes: int, seed: int) -> Array:
    """Distributions of labels by a symmetric Dirichlet of 0.1."""
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.1), workers)


@st.composite
def fleets(draw: Any) -> tuple[Described, Sizes]:
    count = draw(st.integers(1, 20))
    samples = draw(st.lists(st.integers(1, 500), min_size=count, max_size=count))
    sizes = Sizes(examples=draw(st.integers(1, 2000)), workers=draw(st.integers(1, 8)))
    return described(skewed(count, 4, draw(st.integers(0, 99))), samples), sizes


@given(fleets(), st.sampled_from(METHODS), st.sampled_from(MEASURES), st.integers(2, 12))
def test_group_puts_every_worker_into_exactly_one(
    fleet: tuple[Described, Sizes], method: Any, measure: Any, clusters: int
) -> None:
    workers, sizes = fleet

    groups = group(workers, sizes, method, measure, clusters)

    assert all(groups)
    assert sorted(name for members in groups for name in members) == list(workers.names)
    assert group(workers, sizes, method, measure, clusters) == groups


@pytest.mark.parametrize("method", METHODS)
def test_group_is_filled_up_to_its_examples_or_workers_and_the_rest_is_spread(
    method: Method,
) -> None:
    workers = described(skewed(11, 3, 0))

    by_examples = group(workers, Sizes(examples=25, workers=99), method, "kullback", 3)
    by_workers = group(workers, Sizes(examples=1e9, workers=2), method, "kullback", 3)

    # Of 10 examples each: three workers pass 25; two are left over, to one group each.
    assert sorted(map(len, by_examples)) == [3, 4, 4]
    assert sorted(map(len, by_workers)) == [2, 2, 2, 2, 3]


def test_group_of_too_few_examples_is_kept_where_it_is_the_only_one() -> None:
    groups = group(described(skewed(3, 3, 0)), Sizes(examples=1e9, workers=99), "greedy", "gini", 2)

    assert groups == [["w00", "w01", "w02"]]


def mean_balance(workers: Described, groups: list[list[str]]) -> float:
    place = {name: i for i, name in enumerate(workers.names)}
    return float(
        np.mean(
            [balance(workers.vectors_ND[[place[n] for n in members]].mean(0)) for members in groups]
        )
    )


@pytest.mark.parametrize("measure", ["kullback", "gini"])
@pytest.mark.parametrize("seed", range(4))
def test_greedy_groups_are_nearer_to_balance_than_dealt_ones_and_these_than_random(
    measure: Measure, seed: int
) -> None:
    workers = described(skewed(100, 10, seed))
    sizes = Sizes(examples=50, workers=11)

    greedy, dealt, random = (
        mean_balance(workers, group(workers, sizes, method, measure, 10))
        for method in ("greedy", "kmeans", "random")
    )

    assert greedy < dealt < random


@pytest.mark.parametrize("measure", MEASURES)
def test_greedy_pairs_workers_that_hold_the_two_halves_of_the_labels(measure: Measure) -> None:
    halves = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]] * 4)

    groups = group(described(halves), Sizes(examples=20, workers=9), "greedy", measure, 2)

    assert [{int(name[1:]) % 2 for name in members} for members in groups] == [{0, 1}] * 4


def test_greedy_takes_the_best_even_where_no_measure_is_above_0() -> None:
    """A search that begins at 0 would take the first worker whatever it holds."""
    # 1 - KL falls below 0 with many classes, of which each worker holds few.
    vectors = np.zeros((3, 64))
    vectors[0, 0] = vectors[1, 0] = 1
    vectors[2, 1] = 1
    for first in range(3):
        order = np.roll(np.arange(3), first)
        groups = group(
            described(vectors[order]), Sizes(examples=20, workers=2), "greedy", "kullback", 2
        )
        assert len(groups) == 1  # the third is spread
    four = np.concatenate([vectors, vectors[2:]])
    pairs = group(described(four), Sizes(examples=20, workers=2), "greedy", "kullback", 2)
    assert [sorted(int(n[1:]) // 2 for n in pair) for pair in pairs] == [[0, 1], [0, 1]]


def test_balance_is_the_divergence_from_uniform_and_takes_labels_that_are_absent() -> None:
    assert balance(np.full(4, 0.25)) == pytest.approx(0, abs=1e-12)
    assert balance(np.array([1.0, 0, 0, 0])) == pytest.approx(math.log(4))
    assert balance(np.array([0.5, 0.5, 0, 0])) == pytest.approx(math.log(2))
