"""The algorithms by name: the one place where a new one is entered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedfleet.algorithms.base import Algorithm
from fedfleet.algorithms.fedasync import FedAsync, FedAsyncOptions
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fedbn import FedBN
from fedfleet.algorithms.fedbuff import FedBuff, FedBuffOptions
from fedfleet.algorithms.feddyn import FedDyn, FedDynOptions
from fedfleet.algorithms.fedgw import FedGW, FedGWOptions
from fedfleet.algorithms.fedgwc import FedGWC, FedGWCOptions
from fedfleet.algorithms.fednova import FedNova
from fedfleet.algorithms.fedopt import (
    FedAdagrad,
    FedAdagradOptions,
    FedAdam,
    FedAvgM,
    FedAvgMOptions,
    FedOptOptions,
    FedYogi,
)
from fedfleet.algorithms.fedprox import FedProx, FedProxOptions
from fedfleet.algorithms.fedseq import FedSeq, FedSeqOptions
from fedfleet.algorithms.fedsgd import FedSGD
from fedfleet.algorithms.heterofl import HeteroFL, HeteroFLOptions
from fedfleet.algorithms.scaffold import Scaffold, ScaffoldOptions

# Options class and constructor. Any: each constructor takes its own options class.
CATALOG: Mapping[str, tuple[type, Callable[[Any], Algorithm]]] = {
    "fedavg": (FedAvgOptions, FedAvg),
    "fedsgd": (FedAvgOptions, FedSGD),
    "fedavgm": (FedAvgMOptions, FedAvgM),
    "fedadagrad": (FedAdagradOptions, FedAdagrad),
    "fedadam": (FedOptOptions, FedAdam),
    "fedyogi": (FedOptOptions, FedYogi),
    "fedprox": (FedProxOptions, FedProx),
    "scaffold": (ScaffoldOptions, Scaffold),
    "feddyn": (FedDynOptions, FedDyn),
    "fednova": (FedAvgOptions, FedNova),
    "fedbn": (FedAvgOptions, FedBN),
    "fedgw": (FedGWOptions, FedGW),
    "fedgwc": (FedGWCOptions, FedGWC),
    "fedseq": (FedSeqOptions, FedSeq),
    "heterofl": (HeteroFLOptions, HeteroFL),
    "fedbuff": (FedBuffOptions, FedBuff),
    "fedasync": (FedAsyncOptions, FedAsync),
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
