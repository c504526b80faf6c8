"""The plain local loop over epochs and batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedfleet.algorithms.base import GradientAdjuster
from fedfleet.data.shard import Examples
from fedfleet.errors import DataEmpty, TrainingFailed
from fedfleet.training.augment import draw
from fedfleet.training.batches import Batches, batch_bounds, steps_per_epoch
from fedfleet.training.config import TrainingConfig
from fedfleet.training.objective import Objective
from fedfleet.training.optim import Plateau, cosine_lr
from fedfleet.training.seeding import derive, torch_generator
from fedfleet.training.stepper import Stepper
from fedfleet.training.watch import Watch
from fedfleet.types import Evaluation, InputSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class LoopTask:
    """What is trained on, and where in the run it happens.

    Args:
        validation: held-out examples; may be empty.
        objective: of the model's kind, not told of the recipe and the examples yet.
        seed: of the order of examples and of augmentation in this round.
        round: counted from 1.
        plateau: the schedule's state; used by ``scheduler = "plateau"`` only.
        eval_batch_size: examples per forward pass on the validation examples.
        rms_loss: measure the loss of each sample in the first epoch, for a selection that asks.
    """

    training: Examples
    validation: Examples
    inputs: InputSpec
    objective: Objective
    seed: int
    round: int
    rounds: int
    plateau: Plateau
    eval_batch_size: int = 256
    rms_loss: bool = False


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """What the loop did.

    Args:
        lrs: learning rate of each optimizer step taken.
        train_loss, train_accuracy: means over all samples of all steps, each measured in training
            mode before its step; the loss is the one that is minimised, smoothing included.
        validation: of the trained module; None without held-out examples, and where the work was
            cut short: what time is left is for the upload.
        epoch_losses: the training loss of each epoch by itself.
        rms_loss: root of the mean squared loss of a sample in the first epoch; None unless asked.
        share: of the planned steps that were done, in (0, 1]; below 1 the last epoch is not whole.
    """

    lrs: tuple[float, ...]
    train_loss: float
    train_accuracy: float
    validation: Evaluation | None
    plateau: Plateau
    epoch_losses: tuple[float, ...] = ()
    rms_loss: float | None = None
    share: float = 1.0


def train_epochs(
    module: nn.Module,
    params: Sequence[nn.Parameter],
    task: LoopTask,
    config: TrainingConfig,
    device: torch.device,
    *,
    adjuster: GradientAdjuster | None = None,
    watch: Watch | None = None,
) -> LoopResult:
    """Train a prepared module in place for the recipe's epochs.

    Args:
        params: trainable parameters in schema order.

    Raises:
        DataEmpty: no training example.
        DataInvalid: the examples are not what the model expects.
        RecipeInvalid: the device cannot do the recipe's mixed precision.
        TrainingFailed: the loss is not finite, or the work was cancelled.
    """
    require_examples(task.training)
    objective = task.objective.on(task.training, config, device)
    stepper = Stepper(module, params, objective, config, device, adjuster)
    told = replace(task, objective=objective)
    try:
        return _Loop(module, stepper, told, config, device, watch or Watch()).run()
    finally:
        stepper.close()


def require_examples(training: Examples) -> None:
    """Raises DataEmpty: there is nothing to train on."""
    if not len(training):
        raise DataEmpty("no example is left to train on: give this worker more data")


def check_losses(losses_S: Tensor, steps: int, round: int, config: TrainingConfig) -> None:
    """Refuse a training whose loss left the finite numbers.

    Args:
        losses_S: of the steps so far, of ``steps``.

    Raises:
        TrainingFailed: naming the first step.
    """
    is_finite = torch.isfinite(losses_S)
    if not bool(is_finite.all()):
        step = int(is_finite.int().argmin()) + 1
        raise TrainingFailed(
            f"training diverged: the loss is not finite at step {step} of {steps} "
            f"in round {round}; lower training.lr ({config.lr})"
        )


def mean_loss(losses_S: Tensor, sizes_S: Tensor) -> float:
    """The mean over samples of the mean losses of steps with so many samples (float64)."""
    return float(torch.dot(losses_S.cpu().double(), sizes_S) / sizes_S.sum())


class _Loop:
    def __init__(
        self,
        module: nn.Module,
        stepper: Stepper,
        task: LoopTask,
        config: TrainingConfig,
        device: torch.device,
        watch: Watch,
    ) -> None:
        self._module, self._stepper, self._task = module, stepper, task
        self._config, self._device, self._watch = config, device, watch
        self._batches = Batches(
            task.training,
            task.inputs,
            task.objective.num_classes,
            device,
            channels_last=config.channels_last,
            pin_memory=config.pin_memory,
        )
        self._order = torch_generator(derive(task.seed, "order"))
        self._chance = torch_generator(derive(task.seed, "augment"))
        self._steps = config.epochs * steps_per_epoch(len(task.training), config.batch_size)
        self._done = 0
        # Kept on the device until somebody looks: reading a value waits for the device.
        self._losses = torch.zeros(self._steps, device=device)
        self._sizes = torch.zeros(self._steps, dtype=torch.float64)
        # Exact for whole numbers; a detector's are shares.
        self._correct = torch.zeros((), dtype=torch.float64, device=device)
        self._squares = torch.zeros((), dtype=torch.float64, device=device)
        self._plateau = task.plateau

    def run(self) -> LoopResult:
        watches_plateau = self._config.scheduler == "plateau"
        validation = None
        epoch_losses = []
        self._module.train()  # evaluation in between gives this mode back
        for epoch in range(1, self._config.epochs + 1):
            start = self._done
            self._epoch()
            self._check_losses()
            epoch_losses.append(self._mean_loss(start))
            if self._is_cut:
                break
            if watches_plateau or epoch == self._config.epochs:
                validation = self._validate()
            if watches_plateau:
                # A shard too small to hold anything out watches its training loss instead.
                loss = validation.loss if validation else epoch_losses[-1]
                self._plateau = self._plateau.after(self._config, loss)
        if not self._stepper.lrs:
            raise TrainingFailed(
                f"each of the {self._done} steps overflowed in float16: "
                'use training.amp = "bfloat16", or lower training.lr'
            )
        return LoopResult(
            lrs=tuple(self._stepper.lrs),
            train_loss=self._mean_loss(0),
            train_accuracy=float(self._correct) / float(self._sizes.sum()),
            validation=validation,
            plateau=self._plateau,
            epoch_losses=tuple(epoch_losses),
            rms_loss=self._rms_loss(),
            share=self._done / self._steps,
        )

    def _epoch(self) -> None:
        examples = len(self._batches)
        order_N = torch.randperm(examples, generator=self._order)
        size = (self._task.inputs.height, self._task.inputs.width)
        draws = draw(self._config.augment, examples, size, self._chance)
        for start, stop in batch_bounds(examples, self._config.batch_size):
            images, targets = self._batches.take(order_N[start:stop])
            if draws is not None:
                drawn = draws.part(start, stop, self._device)
                images, targets = self._task.objective.augmented(images, targets, drawn)
            loss, answers = self._stepper.step(self._batches.normalise(images), targets, self._lr())
            self._note(loss, answers, targets)
            if self._is_cut:
                return

    @property
    def _is_cut(self) -> bool:
        """Whether the work ends here; not before float16's scaler has let a step be taken."""
        return self._watch.is_cut and self._done < self._steps and bool(self._stepper.lrs)

    def _note(self, loss: Tensor, answers: Tensor, targets: Tensor) -> None:
        objective = self._task.objective
        self._losses[self._done] = loss
        self._sizes[self._done] = len(targets)
        self._correct += objective.correct(answers, targets)
        if self._task.rms_loss and self._done * self._config.epochs < self._steps:
            losses_B = objective.sample_losses(answers, targets)
            self._squares += losses_B.double().square().sum()
        self._done += 1
        if self._watch.after_step(self._done, self._steps):
            self._check_losses()

    def _rms_loss(self) -> float | None:
        if not self._task.rms_loss:
            return None
        # All of them, unless the first epoch was cut short.
        samples = min(len(self._batches), int(self._sizes.sum()))
        return math.sqrt(float(self._squares) / samples)

    def _lr(self) -> float:
        """The learning rate of the next step."""
        if self._config.scheduler == "cosine":
            step = (self._task.round - 1) * self._steps + self._done
            return cosine_lr(self._config, step, self._task.rounds * self._steps)
        return self._plateau.lr if self._config.scheduler == "plateau" else self._config.lr

    def _check_losses(self) -> None:
        check_losses(self._losses[: self._done], self._steps, self._task.round, self._config)

    def _mean_loss(self, start: int) -> float:
        """Mean over the samples of the steps since ``start``."""
        return mean_loss(self._losses[start : self._done], self._sizes[start : self._done])

    def _validate(self) -> Evaluation | None:
        task = self._task
        if not len(task.validation):
            return None
        return task.objective.evaluate(
            self._module,
            task.validation,
            task.inputs,
            batch_size=task.eval_batch_size,
            device=self._device,
        )
