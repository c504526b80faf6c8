"""Optimizers and learning rate schedules; schedules are pure, their state is a worker's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.sgd import sgd

from fedfleet.algorithms.base import Memory
from fedfleet.training.config import TrainingConfig

PLATEAU_FACTOR = 0.1
PLATEAU_PATIENCE = 10
_LR, _BEST, _BAD_EPOCHS = "training.lr", "training.best_loss", "training.bad_epochs"


class Sgd:
    """``torch.optim.SGD`` by torch's own arithmetic, to the bit, without ``torch.optim.Optimizer``.

    The first step of an ``Optimizer`` imports torch's compiler, which nobody uses here: two seconds
    and a hundred megabytes. Has what ``Stepper`` uses of an optimizer.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: TrainingConfig, lr: float) -> None:
        self._params = list(params)
        self._momenta: dict[int, torch.Tensor | None] = {}
        self._config = config
        self._hooks: list[Callable[..., None]] = []
        # Any: torch's groups hold numbers and tensors.
        self.param_groups: list[dict[str, Any]] = [{"lr": lr}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for param in self._params:
            param.grad = None

    def register_step_post_hook(self, hook: Callable[..., None]) -> None:
        """Have a function called after each step."""
        self._hooks.append(hook)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with the gradients that are there."""
        params: list[torch.Tensor] = [one for one in self._params if one.grad is not None]
        grads = [param.grad for param in params if param.grad is not None]
        momentum = self._config.momentum or 0.0
        momenta = [self._momenta.get(id(param)) for param in params] if momentum else []
        sgd(
            params,
            grads,
            momenta,
            weight_decay=self._config.weight_decay,
            momentum=momentum,
            lr=self.param_groups[0]["lr"],
            dampening=0.0,
            nesterov=self._config.nesterov,
            maximize=False,
        )
        # Where there was none, torch has put the first one in.
        self._momenta.update(zip(map(id, params), momenta, strict=False))
        for hook in self._hooks:
            hook(self, (), {})


def make_optimizer(
    params: Iterable[nn.Parameter], config: TrainingConfig, lr: float
) -> torch.optim.Optimizer | Sgd:
    """Build the recipe's optimizer with empty state: it lives for one assignment."""
    is_scaled = config.amp == "float16"  # a loss scaler works on an Optimizer only
    if config.optimizer == "sgd":
        if not is_scaled:
            return Sgd(params, config, lr)
        return torch.optim.SGD(
            params,
            lr=lr,
            momentum=config.momentum or 0.0,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    # Fused is some ten times faster on a CPU. Not under a loss scaler: a fused step skips
    # overflows by itself, unseen by the count of steps taken.
    fused = None if is_scaled else True
    return adam(params, lr=lr, weight_decay=config.weight_decay, fused=fused)


def reach(config: TrainingConfig, lrs: Sequence[float]) -> float:
    """How far an optimizer carries along a constant gradient of 1, its state empty at first.

    The learning rate times the 1-norm of FedNova's vector a (Wang 2020, arXiv 2007.07481, section
    4.1): the sum of the rates for plain SGD, more with momentum. For Adam, whose steps do not scale
    with the gradient, the sum of the rates.
    """
    momentum = (config.momentum or 0.0) if config.optimizer == "sgd" else 0.0
    total = velocity = 0.0
    for lr in lrs:
        velocity = momentum * velocity + 1.0
        total += lr * (1.0 + momentum * velocity if config.nesterov else velocity)
    return total


def cosine_lr(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Anneal from lr at step 0 to min_lr at step ``total_steps`` (Loshchilov and Hutter 2017,
    arXiv 1608.03983, equation 5, without restarts).

    Args:
        step: steps that lie before this one, counted over all rounds.
        total_steps: steps of one round times the rounds; beyond it the rate stays at min_lr.
    """
    low = config.min_lr or 0.0
    progress = min(step / total_steps, 1.0)
    return low + (config.lr - low) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Plateau:
    """Lowers the learning rate when the loss stops falling; lives on from round to round.

    As torch's ReduceLROnPlateau, but any lower loss counts as better (threshold 0).

    Args:
        lr: the rate now.
        best: lowest loss seen.
        bad_epochs: epochs since then, or since the last reduction.
    """

    lr: float
    best: float = math.inf
    bad_epochs: int = 0

    @classmethod
    def recall(cls, config: TrainingConfig, memory: Memory) -> Plateau:
        """Return what an earlier round kept, or the start."""
        if _LR not in memory:
            return cls(config.lr)
        return cls(float(memory[_LR]), float(memory[_BEST]), int(memory[_BAD_EPOCHS]))

    def keep(self) -> Memory:
        """The arrays to store: two float64 and one int64, each of shape ()."""
        return {
            _LR: np.array(self.lr, np.float64),
            _BEST: np.array(self.best, np.float64),
            _BAD_EPOCHS: np.array(self.bad_epochs, np.int64),
        }

    def after(self, config: TrainingConfig, loss: float) -> Plateau:
        """Return the state after an epoch that ended with this loss."""
        if loss < self.best:
            return replace(self, best=loss, bad_epochs=0)
        patience = config.plateau_patience
        if self.bad_epochs + 1 <= (PLATEAU_PATIENCE if patience is None else patience):
            return replace(self, bad_epochs=self.bad_epochs + 1)
        lowered = max(self.lr * (config.plateau_factor or PLATEAU_FACTOR), config.min_lr or 0.0)
        return replace(self, lr=lowered, bad_epochs=0)
