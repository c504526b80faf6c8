"""Dense layers on flattened pixels; without hidden layers, softmax regression.

Legend: B = batch, C = input channels, H, W = input size, K = classes.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fedfleet.models.config import MlpOptions
from fedfleet.models.layers import scaled
from fedfleet.types import InputSpec


class Mlp(nn.Module):
    """Hidden layers with ReLU between them, then one output per class."""

    def __init__(self, inputs: InputSpec, num_classes: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        features = inputs.channels * inputs.height * inputs.width
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise((features, *hidden)):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        last = hidden[-1] if hidden else features
        self.layers = nn.Sequential(*layers, nn.Linear(last, num_classes))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits, shape (B, K)."""
        logits_BK: Tensor = self.layers(images_BCHW)
        return logits_BK


def build(inputs: InputSpec, num_classes: int, options: MlpOptions) -> nn.Module:
    """Build ``mlp``; takes inputs of any size."""
    hidden = tuple(scaled(units, options.width) for units in options.hidden)
    return Mlp(inputs, num_classes, hidden)
