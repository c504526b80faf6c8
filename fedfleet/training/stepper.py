"""One optimizer step: forward, backward, the algorithm's adjustment, clipping, update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedfleet.algorithms.base import GradientAdjuster
from fedfleet.errors import TrainingFailed
from fedfleet.training.config import TrainingConfig
from fedfleet.training.device import autocast, check_precision
from fedfleet.training.objective import Objective
from fedfleet.training.optim import make_optimizer


class Stepper:
    """Trains one module for one assignment; optimizer and scaler start empty.

    Args:
        params: trainable parameters in schema order, as the adjuster sees them.
        objective: has been told of the recipe and the shard.

    Raises:
        RecipeInvalid: the device cannot do the recipe's mixed precision.
    """

    def __init__(
        self,
        module: nn.Module,
        params: Sequence[nn.Parameter],
        objective: Objective,
        config: TrainingConfig,
        device: torch.device,
        adjuster: GradientAdjuster | None = None,
    ) -> None:
        check_precision(config, device)
        self._module = module
        self._params = params
        self._objective = objective
        self._config = config
        self._device = device
        self._adjuster = adjuster
        self._optimizer = make_optimizer(params, config, config.lr)
        self._scaler = torch.amp.GradScaler("cuda", enabled=config.amp == "float16")
        self._lr = config.lr
        self.lrs: list[float] = []  # of each step taken; a scaler may skip one
        self._optimizer.register_step_post_hook(lambda *_: self.lrs.append(self._lr))

    def step(self, images: Tensor, targets: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Take one step; return the loss, shape (), and the answers, both on the device."""
        self._set_lr(lr)
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._config, self._device):
            answers = self._forward(images)
        answers = answers.float()
        loss = self._objective.loss(answers, targets)
        torch.autograd.backward(self._scaler.scale(loss))
        self._shape_gradients()
        # A scaler that is off does nothing but step; it is on for torch's own optimizers only.
        self._scaler.step(self._optimizer)  # type: ignore[arg-type]
        self._scaler.update()
        return loss.detach(), answers.detach()

    def close(self) -> None:
        """Drop the last gradients, which nobody reads any more."""
        self._optimizer.zero_grad(set_to_none=True)

    def _set_lr(self, lr: float) -> None:
        if lr != self._lr:
            self._lr = lr
            for group in self._optimizer.param_groups:
                group["lr"] = lr

    def _forward(self, images: Tensor) -> Tensor:
        try:
            answers: Tensor = self._module(images)
        except ValueError as error:
            if len(images) > 1:
                raise
            # torch's batch normalisation refuses a variance over a single value.
            raise TrainingFailed(
                "this model cannot train on a batch of one example: "
                "set training.batch_size to 2 or more and give this worker more examples",
                detail=str(error),
            ) from error
        self._objective.check(answers, len(images))
        return answers

    def _shape_gradients(self) -> None:
        if self._adjuster is None and self._config.clip_norm is None:
            return
        self._scaler.unscale_(self._optimizer)  # type: ignore[arg-type]
        if self._adjuster is not None:
            for param in self._params:
                if param.grad is None:  # took no part in this batch's loss
                    param.grad = torch.zeros_like(param)
            with torch.no_grad():
                self._adjuster(self._params)
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self._config.clip_norm)
