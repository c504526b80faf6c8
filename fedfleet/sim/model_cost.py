"""What training a model costs a device: operations and memory, for device profiles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedfleet.errors import SettingInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.rounds.levels import FULL
from fedfleet.sim.devices import ModelCost
from fedfleet.sim.flops import forward_flops
from fedfleet.training.config import TrainingConfig
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import CPU
from fedfleet.training.submodels import SubModels

_FLOAT_BYTES = 4


def cost_of(card: ModelCard, training: TrainingConfig, *, flops: bool = True) -> ModelCost:
    """Count a model.

    Args:
        flops: count the operations, too.

    Raises:
        SettingInvalid: its operations cannot be counted.
    """
    return ModelCost(
        forward_flops=forward_flops(card) if flops else 0,
        memory_bytes=training_memory_bytes(card, training),
    )


def training_memory_bytes(card: ModelCard, training: TrainingConfig) -> int:
    """An estimate of the tensors that training holds at its peak.

    Four bytes times parameters times (the weights, the version that they came from, their
    gradients, and the optimizer's state: none for SGD, one for its momentum, two for Adam), and
    four bytes for every number that a layer puts out, which the backward pass needs, for each
    example of a batch. Left out: the framework's own part, workspaces of kernels, and the data
    set. ``batch_size = 0`` counts as one example: what all are is not known here.
    """
    with isolated_rng(0, CPU):
        module = build(card).eval()
    held: int = sum(tensor.numel() for tensor in module.state_dict().values())
    parameters = sum(parameter.numel() for parameter in module.parameters())
    per_parameter = 1 + _optimizer_numbers(training)
    batch = max(1, training.batch_size)
    numbers = 2 * held + per_parameter * parameters + batch * _activations(module, card)
    return int(_FLOAT_BYTES * numbers)


def _optimizer_numbers(training: TrainingConfig) -> int:
    if training.optimizer == "sgd":
        return 1 if training.momentum else 0
    return 2


def _activations(module: nn.Module, card: ModelCard) -> int:
    """How many numbers the layers put out for one example."""
    counted = [0]

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        for part in output if isinstance(output, tuple) else (output,):
            if isinstance(part, Tensor):
                counted[0] += part.numel()

    leaves = [part for part in module.modules() if not any(part.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    dtype = torch.int64 if card.inputs.is_tokens else torch.float32
    with torch.no_grad():
        module(torch.zeros((1, *card.inputs.shape), dtype=dtype))
    for hook in hooks:
        hook.remove()
    return counted[0]


def costs_of(
    card: ModelCard, training: TrainingConfig, models: SubModels | None, *, flops: bool = True
) -> dict[str, ModelCost]:
    """What each level of a run's model costs.

    Args:
        models: of a run with levels, whose operations are counted if they can be, since devices
            that are told in examples are faster with narrower ones.
        flops: operations must be counted.

    Raises:
        SettingInvalid: the operations of a model cannot be counted.
    """
    if models is None:
        return {FULL: cost_of(card, training, flops=flops)}
    cards = {level: models.card(level) for level in models.levels}
    try:
        return {level: cost_of(one, training) for level, one in cards.items()}
    except SettingInvalid:
        if flops:
            raise
    return {level: cost_of(one, training, flops=False) for level, one in cards.items()}
