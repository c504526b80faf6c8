"""The algorithms by name: the one place where a new one is entered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedfleet.algorithms.base import Algorithm
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions

# Options class and constructor. Any: each constructor takes its own options class.
CATALOG: Mapping[str, tuple[type, Callable[[Any], Algorithm]]] = {
    "fedavg": (FedAvgOptions, FedAvg),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AlgorithmConfig:
    """A federated algorithm and its options.

    Args:
        name: the algorithm.
        options: an instance of the algorithm's options class.
        statistics: what becomes of running means and variances: the weighted ``average`` of each,
            or the ``pooled`` variance, which adds how far the workers' means lie apart.
    """

    name: str
    options: Any
    statistics: Literal["average", "pooled"] = "average"


def make_algorithm(config: AlgorithmConfig) -> Algorithm:
    """Both halves of the configured algorithm."""
    return CATALOG[config.name][1](config.options)
