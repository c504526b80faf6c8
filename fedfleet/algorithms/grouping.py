"""Groups workers so that each group's data are as balanced as can be (FedSeq's phi).

Zaccone et al. 2022, arXiv 2201.12467, section 3.2. Every worker is described by a vector: an
approximation of its label distribution, or its classifier.

Legend: N = workers, D = length of a description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fedfleet.algorithms.clustering import k_means, shuffled
from fedfleet.types import Array

Measure = Literal["kullback", "gini", "cosine", "wasserstein"]
Method = Literal["greedy", "kmeans", "random"]


@dataclass(frozen=True, eq=False)
class Described:
    """The workers to be grouped.

    Args:
        names: N of them.
        vectors_ND: a description of each.
        samples_N: training examples of each.
    """

    names: tuple[str, ...]
    vectors_ND: Array
    samples_N: Array


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """When a group is full: it has enough examples, or as many workers as it may.

    Args:
        examples: >= 1.
        workers: >= 1.
    """

    examples: float
    workers: int


@dataclass(eq=False)
class _Group:
    members: list[int] = field(default_factory=list)
    examples: float = 0.0

    def add(self, worker: int, described: Described) -> None:
        self.members.append(worker)
        self.examples += float(described.samples_N[worker])

    def full(self, sizes: Sizes) -> bool:
        return self.examples >= sizes.examples or len(self.members) >= sizes.workers


def group(
    described: Described, sizes: Sizes, method: Method, measure: Measure, clusters: int
) -> list[list[str]]:
    """Group the workers; every one is in one group.

    The groups are filled one after the other. Where the workers that are left do not fill one,
    they go to the groups with the fewest examples.

    Args:
        clusters: that ``kmeans`` makes before it deals them out.
    """
    order = shuffled(range(len(described.names)), "group")
    if method == "greedy":
        groups = _greedy(described, sizes, order, MEASURES[measure])
    elif method == "kmeans":
        groups = _fill(described, sizes, _dealt(described, order, clusters))
    else:
        groups = _fill(described, sizes, order)
    return [
        sorted(described.names[worker] for worker in one.members)
        for one in _spread_rest(groups, described, sizes)
    ]


def _fill(described: Described, sizes: Sizes, order: list[int]) -> list[_Group]:
    groups = [_Group()]
    for worker in order:
        if groups[-1].full(sizes):
            groups.append(_Group())
        groups[-1].add(worker, described)
    return groups


def _dealt(described: Described, order: list[int], clusters: int) -> list[int]:
    """One worker of each cluster in turn."""
    labels_N = k_means(described.vectors_ND, min(clusters, len(order)))
    queues = [[worker for worker in order if labels_N[worker] == k] for k in np.unique(labels_N)]
    rounds = max(map(len, queues))
    return [queue[i] for i in range(rounds) for queue in queues if i < len(queue)]


def _greedy(
    described: Described, sizes: Sizes, order: list[int], measure: Callable[[Array, Array], Array]
) -> list[_Group]:
    left, groups = list(order), [_Group()]
    while left:
        group = groups[-1]
        if group.full(sizes):
            groups.append(group := _Group())
        chosen = left[0]
        if group.members:
            members = group.members
            mean_D = np.average(
                described.vectors_ND[members], axis=0, weights=described.samples_N[members]
            )
            # The first of the best, however small that is: a comparison with 0 would skip all.
            chosen = left[int(np.argmax(measure(mean_D, described.vectors_ND[left])))]
        left.remove(chosen)
        group.add(chosen, described)
    return groups


def _spread_rest(groups: list[_Group], described: Described, sizes: Sizes) -> list[_Group]:
    if len(groups) == 1 or groups[-1].full(sizes):
        return groups
    *whole, rest = groups
    for worker in rest.members:
        min(whole, key=lambda one: one.examples).add(worker, described)
    return whole


def balance(distribution_D: Array) -> float:
    """KL(distribution || uniform) in nats: 0 is balanced, log D is one class alone."""
    return float(np.log(len(distribution_D)) + _negentropy(distribution_D))


def _negentropy(p_ND: Array) -> Array:
    """Sum p log p along the last axis, 0 log 0 = 0."""
    safe = np.where(p_ND > 0, p_ND, 1.0)
    total: Array = (p_ND * np.log(safe)).sum(-1)
    return total


# How well workers of rows (N, D) go with a group of mean (D,): more is better, shape (N,).


def _kullback(mean_D: Array, rows_ND: Array) -> Array:
    union_ND = (mean_D + rows_ND) / 2
    divergence_N: Array = np.log(rows_ND.shape[1]) + _negentropy(union_ND)
    return 1 - divergence_N


def _gini(mean_D: Array, rows_ND: Array) -> Array:
    union_ND = (mean_D + rows_ND) / 2
    gini: Array = 1 - (union_ND**2).sum(1)
    return gini


def _cosine(mean_D: Array, rows_ND: Array) -> Array:
    norms_N = np.linalg.norm(rows_ND, axis=1) * np.linalg.norm(mean_D)
    cosine: Array = 1 - rows_ND @ mean_D / np.maximum(norms_N, 1e-12)
    return cosine


def _wasserstein(mean_D: Array, rows_ND: Array) -> Array:
    distance: Array = np.abs(np.cumsum(rows_ND - mean_D, axis=1)).sum(1)
    return distance


MEASURES: dict[str, Callable[[Array, Array], Array]] = {
    "kullback": _kullback,
    "gini": _gini,
    "cosine": _cosine,
    "wasserstein": _wasserstein,
}
