"""What every backend does: answer images with one version's weights."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedfleet.data.images import Pixels
from fedfleet.types import InputSpec

# Legend: B = batch, C = channels, H = height, W = width, A = anchors, K = classes.

# What a module's forward gives: logits (B, K), or a detector's (B, A, 4 + 1 + K).
Answers = npt.NDArray[np.float32]


class Backend(Protocol):
    """Holds a version's weights in the form that it computes with; for one thread at a time."""

    @property
    def name(self) -> str:
        """How settings and logs call it."""

    def run(self, images: Pixels) -> Answers:
        """Answer uint8 of shape (B, C, H, W), whatever B; the caller owns the array."""


class BackendMissingError(Exception):
    """A backend cannot be had: a library, or the processor's instructions, are missing."""


class Prepared(nn.Module):
    """A version's module behind its normalisation, so that both are one graph.

    Args:
        module: in evaluation mode, without gradients.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, inputs: InputSpec) -> None:
        super().__init__()
        mean_C11, std_C11 = (
            torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
            for values in (inputs.mean, inputs.std)
        )
        self.module = module
        self.register_buffer("scale", (1 / (255 * std_C11)).float())
        self.register_buffer("shift", (-mean_C11 / std_C11).float())
        self.eval().requires_grad_(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Scale uint8 of shape (B, C, H, W) to [0, 1] and normalise per channel.

        The same two float32 operations as ``training.batches``, so that answers of plain torch
        agree with those of the training side to the last bit.
        """
        return images.float() * self.scale + self.shift

    def forward(self, images: Tensor) -> Tensor:
        """Answer uint8 of shape (B, C, H, W)."""
        answers: Tensor = self.module(self.normalise(images))
        return answers
