"""Takes classes out of the loss of which a worker has no example.

HeteroFL's masked cross-entropy (Diao et al. 2021, arXiv:2010.01264, section 3.3): without it a
worker's every step pushes down the answers for classes that only others have. As in the authors'
code the logits are set to 0, not to minus infinity, so that they still take part in the softmax.

Legend: B = batch, C = classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedfleet.data.shard import Examples
from fedfleet.training.config import TrainingConfig


def absent_classes(
    training: Examples, num_classes: int, config: TrainingConfig, device: torch.device
) -> Tensor | None:
    """Which classes the loss leaves out, bool, shape (C,); None where the recipe masks none."""
    if not config.mask_absent:
        return None
    absent_C = torch.ones(num_classes, dtype=torch.bool)
    absent_C[torch.from_numpy(training.labels.copy())] = False
    return absent_C.to(device)


def masked(logits_BC: Tensor, absent_C: Tensor | None) -> Tensor:
    """The logits that the loss sees; no gradient goes to those of absent classes."""
    return logits_BC if absent_C is None else logits_BC.masked_fill(absent_C, 0.0)
