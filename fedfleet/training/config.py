"""How a worker trains and how versions are evaluated: every option of the reference recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """The local training of one assignment.

    Args:
        epochs: passes over the local training split.
        batch_size: examples per step; 0 takes all of them at once. The last batch of an epoch may
            be smaller; a last batch of one example joins the batch before it (batch normalisation
            needs two).
        optimizer: its own state (momentum, moments) starts empty in each round.
        lr: learning rate at the first round.
        momentum, nesterov: of SGD only.
        weight_decay: L2 for SGD and Adam, decoupled for AdamW; of every trainable parameter.
        scheduler: ``cosine`` anneals over the steps of all rounds to ``min_lr`` (a function of
            the round, so nothing is kept); ``plateau`` multiplies lr by ``plateau_factor``
            after more than ``plateau_patience`` epochs without a lower local validation loss,
            down to ``min_lr`` (kept by the worker from round to round).
        min_lr: of both schedules, from 0 to below lr; absent means 0.
        plateau_factor: in (0, 1); absent means 0.1.
        plateau_patience: epochs, 0 or more; absent means 10.
        label_smoothing: of the cross-entropy, in [0, 1).
        clip_norm: largest norm of the gradient over all parameters; absent means no clipping.
        batchnorm_momentum: weight of the newest batch in running statistics, in (0, 1]; absent
            means what the architecture sets.
        augment: random horizontal flip, and random crop after padding by an eighth of the side.
        validation_fraction: share of the local examples that is held out, in [0, 1).
        device: ``auto`` takes CUDA when there is one.
        amp: mixed precision by autocast; ``float16`` scales the loss and needs CUDA.
        channels_last: memory format of images and convolutions.
        pin_memory: page-locked host memory for copies to a CUDA device; a worker that runs on
            its CPU has no such copies.
        threads: most threads that torch may use; 0 leaves torch's own choice.
        mask_absent: the logits of classes of which a worker has no training example are set to 0
            before the loss, so that it does not unlearn them.
        ordered_dropout: train in each step a width drawn from those of the recipe's levels that
            are not above the worker's own (FjORD), without HeteroFL's scaler; not with batch
            normalisation.
        partial_work: what a worker has done shortly before the deadline is uploaded, where the
            algorithm takes it; false trains on, and what is late is thrown away.
    """

    epochs: int = 1
    batch_size: int = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 0.0
    scheduler: Literal["constant", "cosine", "plateau"] = "constant"
    min_lr: float | None = None
    plateau_factor: float | None = None
    plateau_patience: int | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    batchnorm_momentum: float | None = None
    augment: Literal["none", "flip", "flip-crop"] = "none"
    validation_fraction: float = 0.2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: Literal["off", "bfloat16", "float16"] = "off"
    channels_last: bool = True
    pin_memory: bool = False
    threads: int = 0
    mask_absent: bool = False
    ordered_dropout: bool = False
    partial_work: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs = {self.epochs}: must be 1 or more")
        if self.batch_size < 0:
            raise ValueError(f"batch_size = {self.batch_size}: must be 1 or more, or 0 for all")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr = {self.lr}: must be above 0")
        for name in ("label_smoothing", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be in [0, 1)")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay = {self.weight_decay}: must be 0 or more")
        if self.threads < 0:
            raise ValueError(f"threads = {self.threads}: must be 0 or more")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise ValueError(f"clip_norm = {self.clip_norm}: must be above 0")
        if self.batchnorm_momentum is not None and not 0 < self.batchnorm_momentum <= 1:
            raise ValueError(f"batchnorm_momentum = {self.batchnorm_momentum}: must be in (0, 1]")
        self._check_optimizer()
        self._check_scheduler()
        if self.device == "cpu":
            self._check_cpu()

    def _check_cpu(self) -> None:
        if self.amp == "float16":
            raise ValueError('amp = "float16": needs device = "cuda"; on a CPU use "bfloat16"')
        if self.pin_memory:
            raise ValueError('pin_memory = true: has no meaning with device = "cpu"')

    def _check_optimizer(self) -> None:
        if self.optimizer != "sgd" and self.momentum is not None:
            raise ValueError(f'momentum: has no meaning with optimizer = "{self.optimizer}"')
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum}: must be in [0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true: needs momentum above 0")

    def _check_scheduler(self) -> None:
        if self.min_lr is not None:
            if self.scheduler == "constant":
                raise ValueError('min_lr: has no meaning with scheduler = "constant"')
            if not 0 <= self.min_lr < self.lr:
                raise ValueError(f"min_lr = {self.min_lr}: must be from 0 to below lr")
        for name in ("plateau_factor", "plateau_patience"):
            if getattr(self, name) is not None and self.scheduler != "plateau":
                raise ValueError(f'{name}: has no meaning with scheduler = "{self.scheduler}"')
        if self.plateau_factor is not None and not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor = {self.plateau_factor}: must be in (0, 1)")
        if self.plateau_patience is not None and self.plateau_patience < 0:
            raise ValueError(f"plateau_patience = {self.plateau_patience}: must be 0 or more")
        if self.scheduler == "plateau" and self.validation_fraction == 0:
            raise ValueError('scheduler = "plateau": needs validation_fraction above 0')


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Who evaluates a version, on what, how often.

    Args:
        every: rounds between evaluations; the last round is always evaluated.
        coordinator: evaluate on the data set's test split, before the version is published.
        workers: who evaluates the published version on its own data; with a lossy downlink the
            base that workers hold of it, not the exact version.
        workers_on: each worker's held-out ``validation`` split, or its share of the ``test`` split
            (equal shares by position, so that the workers' counts of one model add up to the
            coordinator's).
        batch_size: examples per forward pass.
    """

    every: int = 1
    coordinator: bool = True
    workers: Literal["all", "cohort", "none"] = "none"
    workers_on: Literal["validation", "test"] = "validation"
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("every", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 1 or more")
        if self.workers == "none" and self.workers_on != "validation":
            raise ValueError(
                f'workers_on = "{self.workers_on}": has no meaning with workers = "none"'
            )

    def due(self, round: int, rounds: int) -> bool:
        """Whether the version of this round (counted from 1) is evaluated."""
        return round % self.every == 0 or round == rounds
