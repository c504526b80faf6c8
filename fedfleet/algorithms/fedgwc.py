"""Clustered Gaussian weighting (FedGWCluster; Licciardi et al. 2025, arXiv 2502.03340).

Workers whose losses are alike end in one cluster, and each cluster has a model of its own. A
cluster keeps the interaction matrix W of its workers: after a round with its cohort S and rewards
r_i (how near worker i's losses are to the cohort's, see ``rewards``),

    W[i, j] <- (1 - a) W[i, j] + a r_i / sum_S r   for i, j in S,   a = |S| / N,

so a row tells how a worker fares in the company of each other. When W has settled (its smoothed
mean squared change is below ``tolerance`` for N / |S| rounds in a row) the rows, scaled to [0, 1],
are compared by exp(-gamma |W_i - W_j|^2) without the entries of i and j themselves, and the cluster
is split by spectral clustering into 2 to ``max_clusters``, and no more than N / |S|, where the
Davies-Bouldin index of the spectral embedding is lowest, if that is below 1. Children begin with
their parent's model and its part of W. Inside a cluster the aggregate is FedAvg's.

Where this differs from the published code: rewards are taken per local epoch, not per local step;
the cohort is drawn from the whole fleet, not from each cluster; and W's rows are compared, not its
columns, by which populations are told apart far less often. Who has not taken part yet is in the
first cluster. From the first split on, each cluster is a lane; workers train and evaluate their own
cluster's model, and what is published, for devices of no cluster, is the mean of the clusters'
models by their numbers of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fedfleet.algorithms.base import DELTA, Memory, Outcome, RoundResult
from fedfleet.algorithms.clustering import davies_bouldin, embedded, spectral_clusters
from fedfleet.algorithms.fedavg import FedAvgOptions, stepped
from fedfleet.algorithms.fedgw import FedGW, FedGWOptions, losses_of
from fedfleet.algorithms.plan import MAIN
from fedfleet.algorithms.vectors import mean_model
from fedfleet.types import Array, Kind, ModelState, UpdateHeader

_MEMBER = "fedgwc.member."
_CLUSTER = "fedgwc.cluster."
_MODEL = "fedgwc.model."
_ALL_ALIKE = 1 - 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class FedGWCOptions:
    """Options of ``fedgwc``.

    Args:
        server_lr: step along a cluster's mean delta, > 0.
        gamma: how fast the likeness of two workers falls with their distance, > 0.
        tolerance: mean squared change of W below which it has settled, > 0; the entries of W are
            about 1 / |S|, so small cohorts need a larger one.
        max_clusters: into which one cluster is split at once, >= 2.
    """

    server_lr: float = 1.0
    gamma: float = 0.1
    tolerance: float = 1e-5
    max_clusters: int = 4

    def __post_init__(self) -> None:
        FedAvgOptions(server_lr=self.server_lr)
        for name in ("gamma", "tolerance"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.max_clusters < 2:
            raise ValueError(f"max_clusters = {self.max_clusters}: must be at least 2")


@dataclass(eq=False)
class _Cluster:
    """Its members in the order of W's rows, W, the smoothed change of W, and rounds of calm."""

    members: list[str]
    interaction: Array
    change: float = 1.0
    calm: int = 0
    rows: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = {worker: row for row, worker in enumerate(self.members)}


class FedGWC(FedGW):
    """FedAvg in clusters that the losses make."""

    weighs_together: ClassVar[bool] = False
    needs_workers: ClassVar[bool] = True

    def __init__(self, options: FedGWCOptions) -> None:
        super().__init__(FedGWOptions(server_lr=options.server_lr))
        self._opt = options

    def weights(self, headers: Sequence[UpdateHeader], memory: Memory) -> list[float]:
        """By samples; what losses earn here is a cluster, not a weight."""
        return [self.weight(header) for header in headers]

    def lane_of(self, worker_id: str, memory: Memory) -> str:
        """The run's own before the first split; the first for whoever has not taken part."""
        if not _is_split(memory):
            return MAIN
        return str(int(memory.get(_MEMBER + worker_id, np.zeros(2))[0]))

    def lane_state(self, lane: str, base: ModelState, memory: Memory) -> ModelState:
        """A cluster's model."""
        return ModelState(base.schema, *(memory[f"{_MODEL}{lane}.{kind.value}"] for kind in Kind))

    def step(self, result: RoundResult) -> Outcome:
        """Move each cluster's model, learn from its losses, split it if it has settled."""
        clusters = _clusters(result)
        models = {0: result.base}
        if _is_split(result.memory):
            models = {
                number: self.lane_state(str(number), result.base, result.memory)
                for number in clusters
            }
        for lane, aggregate in result.aggregates.items():
            number = int(lane or 0)
            step_P = self._opt.server_lr * aggregate.means[DELTA]
            models[number] = stepped(models[number], aggregate, step_P)
            cohort = result.headers_of(lane)
            if len(cohort) > 1:
                self._learn(clusters, models, number, cohort, result)
        if len(clusters) == 1:
            return Outcome(models[0], _memory(clusters, {}))
        return Outcome(_mean(clusters, models), _memory(clusters, models))

    def _learn(
        self,
        clusters: dict[int, _Cluster],
        models: dict[int, ModelState],
        number: int,
        cohort: Sequence[UpdateHeader],
        result: RoundResult,
    ) -> None:
        cluster, opt = clusters[number], self._opt
        share = len(cohort) / _size(clusters, number, result.workers)
        rows = [cluster.rows[header.worker_id] for header in cohort]
        earned = rewards(cohort)
        before = cluster.interaction[np.ix_(rows, rows)]
        after = (1 - share) * before + share * (earned / earned.sum())[:, None]
        cluster.interaction[np.ix_(rows, rows)] = after
        cluster.change += share * (float(((after - before) ** 2).mean()) - cluster.change)
        cluster.calm = cluster.calm + 1 if cluster.change < opt.tolerance else 0
        if cluster.calm < max(1, round(1 / share)):
            return
        # Parts smaller than a cohort would be the noise of few losses.
        most = min(opt.max_clusters, len(cluster.members) // len(result.headers))
        labels = best_split(affinity(cluster.interaction, opt.gamma), most)
        for label in np.unique(labels)[1:]:
            child = max(clusters) + 1
            clusters[child] = _part(cluster, labels == label)
            models[child] = models[number]
        clusters[number] = _part(cluster, labels == labels.min())


def rewards(cohort: Sequence[UpdateHeader]) -> Array:
    """How near each worker's losses are to the cohort's mean, by samples: in (0, 1], shape (K,)."""
    losses_KE = np.array(list(zip(*map(losses_of, cohort), strict=False))).T
    shares_K = np.array([header.weight for header in cohort])
    shares_K = shares_K / shares_K.sum()
    squares_KE = (losses_KE - shares_K @ losses_KE) ** 2
    # As small as the published code has it, so that equal losses earn equal rewards.
    variance_E = shares_K @ squares_KE + 1e-16
    earned: Array = np.exp(-squares_KE / (2 * variance_E)).mean(1)
    return np.maximum(earned, 1e-12)


def affinity(interaction_NN: Array, gamma: float) -> Array:
    """How alike the rows of W are, in (0, 1], shape (N, N); 1 on the diagonal."""
    low, high = interaction_NN.min(), interaction_NN.max()
    rows_NN = (interaction_NN - low) / max(high - low, 1e-8)
    squares = (rows_NN**2).sum(1)
    distances = squares[:, None] + squares - 2 * rows_NN @ rows_NN.T
    # Less the entries of i and j themselves, in both rows.
    own = np.diag(rows_NN)
    distances -= (own[:, None] - rows_NN.T) ** 2 + (rows_NN - own) ** 2
    alike: Array = np.exp(-gamma * np.maximum(distances, 0.0))
    np.fill_diagonal(alike, 1.0)
    return alike


def best_split(affinity_NN: Array, most: int) -> Array:
    """Labels of the best split into 2 to ``most`` parts; all 0 where none is worth it."""
    best, labels_N = 1.0, np.zeros(len(affinity_NN), np.int64)
    if affinity_NN.min() > _ALL_ALIKE:  # the eigenvectors would be of rounding errors
        return labels_N
    for parts in range(2, min(most, len(affinity_NN) - 1) + 1):
        tried_N = spectral_clusters(affinity_NN, parts)
        badness = davies_bouldin(embedded(affinity_NN, parts), tried_N)
        if badness < best:
            best, labels_N = badness, tried_N
    return labels_N


def _size(clusters: dict[int, _Cluster], number: int, workers: int) -> int:
    """Workers of a cluster; those that never took part are the first one's."""
    size = len(clusters[number].members)
    if number:
        return size
    known = sum(len(cluster.members) for cluster in clusters.values())
    return size + max(0, workers - known)


def _part(cluster: _Cluster, chosen_N: Array) -> _Cluster:
    rows = np.flatnonzero(chosen_N)
    return _Cluster([cluster.members[row] for row in rows], cluster.interaction[np.ix_(rows, rows)])


def _mean(clusters: dict[int, _Cluster], models: dict[int, ModelState]) -> ModelState:
    """The clusters' models by their numbers of workers; the largest of their counters."""
    sizes = [float(len(clusters[number].members)) for number in models]
    return mean_model(list(models.values()), sizes)


# To and from the memory: a worker's place is its cluster and its row.


def _is_split(memory: Memory) -> bool:
    return f"{_MODEL}0.{Kind.TRAINABLE.value}" in memory


def _clusters(result: RoundResult) -> dict[int, _Cluster]:
    places = {
        key.removeprefix(_MEMBER): tuple(map(int, place))
        for key, place in result.memory.items()
        if key.startswith(_MEMBER)
    }
    numbers = sorted({0, *(number for number, _ in places.values())})
    clusters = {}
    for number in numbers:
        own = [worker for worker, place in places.items() if place[0] == number]
        members = sorted(own, key=lambda worker: places[worker][1])
        interaction = result.memory.get(f"{_CLUSTER}{number}.interaction", np.zeros((0, 0)))
        change, calm = result.memory.get(f"{_CLUSTER}{number}.state", np.array([1.0, 0.0]))
        clusters[number] = _Cluster(members, interaction.copy(), float(change), int(calm))
    new = [h.worker_id for h in result.headers if h.worker_id not in places]
    clusters[0] = _grown(clusters[0], new, result.workers)
    return clusters


def _grown(cluster: _Cluster, new: Sequence[str], workers: int) -> _Cluster:
    """With rows for workers that take part for the first time."""
    size = len(cluster.members) + len(new)
    interaction = np.full((size, size), 1.0 / max(workers, 1) ** 2)
    known = len(cluster.members)
    interaction[:known, :known] = cluster.interaction
    return _Cluster([*cluster.members, *new], interaction, cluster.change, cluster.calm)


def _memory(clusters: dict[int, _Cluster], models: dict[int, ModelState]) -> Memory:
    kept: dict[str, Array] = {}
    for number, cluster in clusters.items():
        for worker, row in cluster.rows.items():
            kept[_MEMBER + worker] = np.array([number, row])
        kept[f"{_CLUSTER}{number}.interaction"] = cluster.interaction
        kept[f"{_CLUSTER}{number}.state"] = np.array([cluster.change, float(cluster.calm)])
        if number in models:
            for kind in Kind:
                kept[f"{_MODEL}{number}.{kind.value}"] = models[number].vector(kind)
    return kept
