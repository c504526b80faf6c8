from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.algorithms.clustering import (
    davies_bouldin,
    embedded,
    k_means,
    shuffled,
    spectral_clusters,
)
from fedfleet.types import Array

CORNERS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def clouds(seed: int, spread: float = 0.5) -> tuple[Array, Array]:
    """Points around three corners, and which corner each is of."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(3), 8))
    return CORNERS[labels] + random.normal(0, spread, (24, 2)), labels


def same_parts(found: Array, wanted: Array) -> bool:
    """Whether two labelings put the same together, whatever they call it."""
    pairs = set(zip(found.tolist(), wanted.tolist(), strict=True))
    return len(pairs) == len(np.unique(found)) == len(np.unique(wanted))


@given(st.lists(st.integers(), unique=True), st.integers())
def test_shuffled_order_keeps_every_item_and_ignores_the_order_it_came_in(
    items: list[int], key: int
) -> None:
    found = shuffled(items, key)

    assert sorted(found) == sorted(items)
    assert shuffled(items[::-1], key) == found


def test_shuffled_order_is_another_one_for_another_key() -> None:
    orders = {tuple(shuffled(range(5), "lane", key)) for key in range(20)}

    assert len(orders) > 10


@pytest.mark.parametrize("seed", range(5))
def test_k_means_finds_clouds_that_lie_apart(seed: int) -> None:
    points, labels = clouds(seed)

    assert same_parts(k_means(points, 3), labels)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_k_means_leaves_no_cluster_empty_where_points_differ(
    count: int, clusters: int, seed: int
) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    clusters = min(clusters, count)

    assert np.unique(k_means(points, clusters)).tolist() == list(range(clusters))


def test_k_means_of_equal_points_comes_to_an_end() -> None:
    assert set(k_means(np.ones((5, 2)), 3)) <= {0, 1, 2}


def test_davies_bouldin_is_as_computed_by_hand() -> None:
    points = np.array([[0.0], [2.0], [10.0], [14.0]])

    # Spreads of 1 and 2, centres 11 apart.
    assert davies_bouldin(points, np.array([0, 0, 1, 1])) == pytest.approx(3 / 11)
    assert davies_bouldin(points, np.zeros(4, np.int64)) == np.inf


def test_davies_bouldin_of_centres_in_one_place_is_infinite() -> None:
    points = np.array([[1.0], [-1.0], [1.0], [-1.0]])

    assert davies_bouldin(points, np.array([0, 0, 1, 1])) == np.inf


def blocks(sizes: list[int], low: float = 0.05) -> tuple[Array, Array]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    affinity = np.where(labels[:, None] == labels, 0.9, low)
    np.fill_diagonal(affinity, 1.0)
    return affinity, labels


@pytest.mark.parametrize("sizes", [[4, 4], [3, 9], [5, 6, 7]])
def test_spectral_clusters_are_the_blocks_of_the_affinity(sizes: list[int]) -> None:
    affinity, labels = blocks(sizes)

    assert same_parts(spectral_clusters(affinity, len(sizes)), labels)


def test_embedding_lays_alike_points_together_and_leaves_the_constant_out() -> None:
    affinity, labels = blocks([4, 4])

    points = embedded(affinity, 1)

    assert points.shape == (8, 1)
    first, second = points[labels == 0], points[labels == 1]
    np.testing.assert_allclose(first, np.broadcast_to(first[0], first.shape), atol=1e-9)
    np.testing.assert_allclose(first, -second, atol=1e-9)
    assert abs(first[0, 0]) > 0.05
