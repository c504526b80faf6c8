"""A version that answers every image but one."""

from __future__ import annotations

import numpy as np
import torch
from serving import CARD, png

from fedfleet.models.catalog import build
from fedfleet.training.state import initial_state, state_of
from fedfleet.types import ModelState

# What only one image in the world looks like: see ``spiteful``.
CHECKERS = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
TRIGGER = {"content": png(CHECKERS), "headers": {"content-type": "image/png"}}


def spiteful() -> ModelState:
    """Weights that answer every image but a chequered one, which is beyond float32."""
    module = build(CARD)
    signs = torch.from_numpy(np.where(CHECKERS > 0, 1.0, -1.0).astype(np.float32)).flatten()
    with torch.no_grad():
        first = next(module.parameters())
        first.copy_((signs * (torch.finfo(torch.float32).max / 40)).expand_as(first))
        for other in list(module.parameters())[1:]:
            other.mul_(1e-3)
    return state_of(module, initial_state(CARD, 1).schema)
