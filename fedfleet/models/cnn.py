"""The convolutional network of McMahan et al. 2017 (arXiv:1602.05629, section 3, MNIST CNN).

Legend: B = batch, C = input channels, H, W = input size, K = classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from fedfleet.errors import RecipeInvalid
from fedfleet.models.config import CnnOptions
from fedfleet.models.layers import make_norm, scaled
from fedfleet.types import InputSpec

_CHANNELS = (32, 64)
_SMALLEST_SIDE = 4  # two halvings must leave a pixel


class Cnn(nn.Module):
    """Two 5x5 convolutions (32, 64), each with a 2x2 max-pool, and two dense layers.

    Convolutions are padded to keep the size, as in the paper's parameter count: 1,663,370 for
    1x28x28 inputs, 512 hidden units and 10 classes. The paper has no normalisation.
    """

    def __init__(self, inputs: InputSpec, num_classes: int, options: CnnOptions) -> None:
        super().__init__()
        norm = make_norm(options.norm, options.groups, options.width)
        first, second, hidden = (scaled(c, options.width) for c in (*_CHANNELS, options.hidden))
        self.conv1 = nn.Conv2d(inputs.channels, first, kernel_size=5, padding=2)
        self.norm1 = norm(_CHANNELS[0])
        self.conv2 = nn.Conv2d(first, second, kernel_size=5, padding=2)
        self.norm2 = norm(_CHANNELS[1])
        places = (inputs.height // 4) * (inputs.width // 4)
        self.hidden = nn.Linear(second * places, hidden)
        # Flattened maps: each channel's places lie together (fedfleet.training.submodels).
        self.width_axes = {"hidden.weight": {1: (1, places)}}
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits, shape (B, K)."""
        # The pool before the rectifier: the same values and gradients, on a quarter of the numbers.
        maps = functional.relu(functional.max_pool2d(self.norm1(self.conv1(images_BCHW)), 2))
        maps = functional.relu(functional.max_pool2d(self.norm2(self.conv2(maps)), 2))
        logits_BK: Tensor = self.output(functional.relu(self.hidden(maps.flatten(1))))
        return logits_BK


def build(inputs: InputSpec, num_classes: int, options: CnnOptions) -> nn.Module:
    """Build ``cnn``.

    Raises:
        RecipeInvalid: the images are smaller than 4x4, or the groups divide no channels.
    """
    if min(inputs.height, inputs.width) < _SMALLEST_SIDE:
        raise RecipeInvalid(
            f'architecture = "cnn": needs images of {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels or '
            f"more, the data set has {inputs.height}x{inputs.width}"
        )
    return Cnn(inputs, num_classes, options)
