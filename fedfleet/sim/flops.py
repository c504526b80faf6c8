"""Counts the arithmetic of a model, for device profiles that are told in operations per second."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fedfleet.errors import SettingInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import CPU


def forward_flops(card: ModelCard) -> int:
    """Floating-point operations of one forward pass of one example.

    Raises:
        SettingInvalid: the model is made of operations that torch's counter does not know.
    """
    with isolated_rng(0, CPU):
        module = build(card).eval()
    inputs = card.inputs
    dtype = torch.int64 if inputs.is_tokens else torch.float32
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(torch.zeros((1, *inputs.shape), dtype=dtype))
    flops = int(counter.get_total_flops())
    if flops == 0:
        raise SettingInvalid(
            "devices: the operations of this model cannot be counted; give samples_per_s instead "
            "of flops_per_s"
        )
    return flops
