"""The gradient of the local loss over all training examples, at one state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fedfleet.data.shard import Examples
from fedfleet.training.batches import Batches, batch_bounds
from fedfleet.training.config import TrainingConfig
from fedfleet.training.objective import Objective
from fedfleet.types import FloatVector, InputSpec


def mean_gradient(
    module: nn.Module,
    params: Sequence[nn.Parameter],
    examples: Examples,
    inputs: InputSpec,
    objective: Objective,
    config: TrainingConfig,
    device: torch.device,
) -> FloatVector:
    """Return the mean gradient over the examples in training mode, float32, shape (P,).

    The loss is the one that is minimised (smoothing, mask and weight decay included), without
    augmentation and in full precision. Batch statistics are those of each batch; the module's
    running statistics move, its parameters do not.
    """
    batches = Batches(
        examples,
        inputs,
        objective.num_classes,
        device,
        channels_last=config.channels_last,
        pin_memory=config.pin_memory,
    )
    told = objective.on(examples, config, device)
    module.train()
    module.zero_grad(set_to_none=True)
    order_N = torch.arange(len(batches))
    for start, stop in batch_bounds(len(batches), config.batch_size):
        images, targets = batches.take(order_N[start:stop])
        answers = module(batches.normalise(images)).float()
        loss = told.summed_loss(answers, targets)
        torch.autograd.backward(loss / len(batches))
    parts = [
        (torch.zeros_like(param) if param.grad is None else param.grad)
        + (config.weight_decay * param.detach() if config.optimizer != "adamw" else 0.0)
        for param in params
    ]
    module.zero_grad(set_to_none=True)
    flat = torch.cat([part.detach().reshape(-1) for part in parts]).cpu().numpy()
    return np.asarray(flat, np.float32)
