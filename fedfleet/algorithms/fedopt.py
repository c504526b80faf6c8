"""Adaptive and momentum steps on the coordinator.

FedAdagrad, FedAdam, FedYogi (Reddi et al. 2021, arXiv 2003.00295, Algorithm 2): with the mean delta
D, m+ = beta1 m + (1 - beta1) D, x+ = x + lr m+ / (sqrt(v+) + tau), and
v+ = v + D^2 (Adagrad), beta2 v + (1 - beta2) D^2 (Adam), v - (1 - beta2) D^2 sign(v - D^2) (Yogi).
No bias correction; v starts at tau^2, so that the first step is no larger than later ones.

FedAvgM (Hsu et al. 2019, arXiv 1909.06335): v+ = beta v + D, x+ = x + lr v+; with Nesterov's
look-ahead, as in the paper, x+ = x + lr (beta v+ + D).

Only trainable parameters go through the step; statistics and counters are the aggregate's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedfleet.algorithms.base import DELTA, Memory, Outcome, RoundResult
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions, moved
from fedfleet.types import Array, Kind, Schema

_FIRST, _SECOND = "fedopt.m", "fedopt.v"
_VELOCITY = "fedavgm.v"


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAvgMOptions(FedAvgOptions):
    """Options of ``fedavgm``.

    Args:
        beta: momentum, in [0, 1). The step in the long run is 1 / (1 - beta) times as long: lower
            the workers' learning rate as beta grows.
        nesterov: look ahead, as in the paper; off is heavy ball.
    """

    beta: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        FedAvgOptions.__post_init__(self)
        _check_below_one("beta", self.beta)


class FedAvgM(FedAvg):
    """FedAvg with momentum on the coordinator."""

    takes_levels = False

    def __init__(self, options: FedAvgMOptions) -> None:
        super().__init__(options)
        self._beta, self._nesterov, self._lr = options.beta, options.nesterov, options.server_lr

    def start(self, schema: Schema) -> Memory:
        """No velocity."""
        return {_VELOCITY: np.zeros(schema.elements(Kind.TRAINABLE))}

    def step(self, result: RoundResult) -> Outcome:
        """Move along the velocity."""
        delta_P = self.mean_delta(result)
        velocity_P = self._beta * result.memory[_VELOCITY] + delta_P
        step_P = self._beta * velocity_P + delta_P if self._nesterov else velocity_P
        return Outcome(moved(result, self._lr * step_P), {_VELOCITY: velocity_P})


@dataclass(frozen=True, kw_only=True, slots=True)
class FedOptOptions:
    """Options of ``fedadagrad``, ``fedadam`` and ``fedyogi``.

    Args:
        server_lr: > 0; tuned together with tau.
        tau: added to the root, > 0: the degree of adaptivity.
        beta1: momentum, in [0, 1).
        beta2: memory of the squares, in [0, 1); Adagrad has none.
        weighting: the paper's algorithm takes the plain mean over the cohort, its experiments
            weigh by samples.
    """

    server_lr: float = 0.01
    tau: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.99
    weighting: Literal["samples", "uniform"] = "samples"

    def __post_init__(self) -> None:
        FedAvgOptions(server_lr=self.server_lr)
        if not 0 < self.tau < float("inf"):
            raise ValueError(f"tau = {self.tau}: must be above 0")
        _check_below_one("beta1", self.beta1)
        _check_below_one("beta2", self.beta2)


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAdagradOptions(FedOptOptions):
    """Options of ``fedadagrad``: without momentum unless asked for, and no ``beta2``."""

    server_lr: float = 0.1
    beta1: float = 0.0

    def __post_init__(self) -> None:
        FedOptOptions.__post_init__(self)
        if self.beta2 != 0.99:
            raise ValueError("beta2: fedadagrad sums all squares and has none; leave it out")


class FedAdagrad(FedAvg):
    """FedAvg's mean delta as the gradient of an adaptive optimizer."""

    takes_levels = False

    def __init__(self, options: FedOptOptions) -> None:
        super().__init__(FedAvgOptions(weighting=options.weighting))
        self._opt = options

    def start(self, schema: Schema) -> Memory:
        """Zero momentum; squares begin at tau^2."""
        elements = schema.elements(Kind.TRAINABLE)
        return {_FIRST: np.zeros(elements), _SECOND: np.full(elements, self._opt.tau**2)}

    def step(self, result: RoundResult) -> Outcome:
        """One step of the optimizer."""
        delta_P, opt = result.aggregate.means[DELTA], self._opt
        m_P = opt.beta1 * result.memory[_FIRST] + (1 - opt.beta1) * delta_P
        v_P = self._second(result.memory[_SECOND], delta_P**2)
        step_P = opt.server_lr * m_P / (np.sqrt(v_P) + opt.tau)
        return Outcome(moved(result, step_P), {_FIRST: m_P, _SECOND: v_P})

    def _second(self, v_P: Array, squares_P: Array) -> Array:
        return v_P + squares_P


class FedAdam(FedAdagrad):
    """With an exponential mean of the squares."""

    def _second(self, v_P: Array, squares_P: Array) -> Array:
        return self._opt.beta2 * v_P + (1 - self._opt.beta2) * squares_P


class FedYogi(FedAdagrad):
    """With squares that follow slowly, by sign."""

    def _second(self, v_P: Array, squares_P: Array) -> Array:
        next_P: Array = v_P - (1 - self._opt.beta2) * squares_P * np.sign(v_P - squares_P)
        return next_P


def _check_below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} = {value}: must be at least 0 and below 1")
