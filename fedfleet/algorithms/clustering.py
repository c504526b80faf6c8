"""Puts vectors into clusters; a function of its arguments, the same on every driver.

Legend: N = vectors, D = their length, K = clusters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fedfleet.types import Array

T = TypeVar("T")
_LLOYD_STEPS = 100


def shuffled(items: Sequence[T], *key: object) -> list[T]:
    """The items in an order that is a function of the key and of what they are."""

    def rank(item: T) -> bytes:
        return hashlib.sha256(repr((*key, item)).encode()).digest()

    return sorted(items, key=rank)


def k_means(points_ND: Array, clusters: int) -> Array:
    """Lloyd's algorithm from the farthest-first points (Gonzalez 1985), so without chance.

    Returns:
        The cluster of each point, int64, shape (N,); no cluster is empty where there are as many
        different points as clusters.
    """
    centres_KD = points_ND[_farthest_first(points_ND, clusters)]
    labels_N = np.zeros(len(points_ND), np.int64)
    for _ in range(_LLOYD_STEPS):
        labels_N = _distances(points_ND, centres_KD).argmin(1)
        moved_KD = np.stack(
            [
                points_ND[labels_N == k].mean(0) if (labels_N == k).any() else centres_KD[k]
                for k in range(clusters)
            ]
        )
        if np.array_equal(moved_KD, centres_KD):
            break
        centres_KD = moved_KD
    return labels_N


def spectral_clusters(affinity_NN: Array, clusters: int) -> Array:
    """The clusters of Ng, Jordan and Weiss 2001: k-means of rows of eigenvectors, of length 1.

    Args:
        affinity_NN: symmetric, >= 0, 1 on the diagonal.

    Returns:
        The cluster of each, int64, shape (N,).
    """
    _, vectors_NN = _spectrum(affinity_NN)
    points_NK = vectors_NN[:, :clusters]
    norms_N = np.linalg.norm(points_NK, axis=1, keepdims=True)
    return k_means(points_NK / np.maximum(norms_N, 1e-12), clusters)


def embedded(affinity_NN: Array, dimensions: int) -> Array:
    """Points that lie near where the affinity is high (Laplacian eigenmaps, Belkin, Niyogi 2003).

    The first eigenvector, the same for all points, is left out.

    Returns:
        Shape (N, dimensions); dimensions < N.
    """
    root_N, vectors_NN = _spectrum(affinity_NN)
    points_ND: Array = vectors_NN[:, 1 : dimensions + 1] * root_N[:, None]
    return points_ND


def _spectrum(affinity_NN: Array) -> tuple[Array, Array]:
    """One over the root of each degree, and the normalised affinity's eigenvectors, largest first.

    Eigenvectors are the columns, shape (N, N).
    """
    root_N = 1 / np.sqrt(affinity_NN.sum(1))
    _, vectors_NN = np.linalg.eigh(root_N[:, None] * affinity_NN * root_N)
    return root_N, vectors_NN[:, ::-1]


def davies_bouldin(points_ND: Array, labels_N: Array) -> float:
    """How badly clusters are apart (Davies and Bouldin 1979): 0 is best, infinite for one."""
    found = np.unique(labels_N)
    if len(found) < 2:
        return float("inf")
    centres_KD = np.stack([points_ND[labels_N == k].mean(0) for k in found])
    spreads_K = np.array(
        [
            np.linalg.norm(points_ND[labels_N == k] - centre_D, axis=1).mean()
            for k, centre_D in zip(found, centres_KD, strict=True)
        ]
    )
    apart_KK = np.sqrt(_distances(centres_KD, centres_KD))
    np.fill_diagonal(apart_KK, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        worst_K = ((spreads_K[:, None] + spreads_K) / apart_KK).max(1)
    return float("inf") if np.isnan(worst_K).any() else float(worst_K.mean())


def _farthest_first(points_ND: Array, count: int) -> list[int]:
    chosen = [int(_distances(points_ND, points_ND.mean(0, keepdims=True))[:, 0].argmax())]
    while len(chosen) < count:
        chosen.append(int(_distances(points_ND, points_ND[chosen]).min(1).argmax()))
    return chosen


def _distances(points_ND: Array, centres_KD: Array) -> Array:
    """Squared distances, shape (N, K)."""
    squares: Array = ((points_ND[:, None, :] - centres_KD[None, :, :]) ** 2).sum(2)
    return squares
