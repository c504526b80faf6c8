"""MobileNetV3-Small (Howard et al. 2019, arXiv:1905.02244, table 2), from torchvision's parts.

Legend: B = batch, H, W = input size, K = classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fedfleet.errors import RecipeInvalid, Unavailable
from fedfleet.models.config import MobileNetOptions
from fedfleet.models.layers import scaled
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.types import InputSpec

ensure_torchvision_ops()
# The next import fails without the line above, so it cannot stand at the top.
from torchvision.models.mobilenetv3 import (  # noqa: E402
    InvertedResidual,
    InvertedResidualConfig,
    MobileNet_V3_Small_Weights,
    MobileNetV3,
)
from torchvision.ops.misc import SqueezeExcitation  # noqa: E402

_CHANNELS = 3
_LAST_CHANNEL = 1024
_TableRow = tuple[int, int, int, int, int, str, int]

# Table 2: input channels, kernel, expanded channels, output channels, channels of
# squeeze-and-excite (0: none; torchvision's quarter of the expanded ones, rounded to eights),
# non-linearity, stride. Only the first block's stride differs from the table (there 2): with the
# stem's stride 1 a 32x32 image keeps a 4x4 map, where the table's strides leave one pixel.
_CIFAR_BLOCKS: tuple[_TableRow, ...] = (
    (16, 3, 16, 16, 8, "RE", 1),
    (16, 3, 72, 24, 0, "RE", 2),
    (24, 3, 88, 24, 0, "RE", 1),
    (24, 5, 96, 40, 24, "HS", 2),
    (40, 5, 240, 40, 64, "HS", 1),
    (40, 5, 240, 40, 64, "HS", 1),
    (40, 5, 120, 48, 32, "HS", 1),
    (48, 5, 144, 48, 40, "HS", 1),
    (48, 5, 288, 96, 72, "HS", 2),
    (96, 5, 576, 96, 144, "HS", 1),
    (96, 5, 576, 96, 144, "HS", 1),
)
_IMAGENET_BLOCKS = ((16, 3, 16, 16, 8, "RE", 2), *_CIFAR_BLOCKS[1:])


# torchvision ships no types that mypy may follow, so its classes are of type Any to mypy.
class _Row(InvertedResidualConfig):  # type: ignore[misc]
    """A row of the table at a width.

    torchvision rounds channels to eights, which HeteroFL's rule does not; and it asks the rounded
    numbers whether a block adds its input and how far it squeezes, which narrow widths would
    answer in another way than wide ones.
    """

    def __init__(self, row: _TableRow, width: float) -> None:
        channels_in, kernel, expanded, channels_out, squeezed, activation, stride = row
        super().__init__(
            channels_in,
            kernel,
            expanded,
            channels_out,
            squeezed > 0,
            activation,
            stride,
            dilation=1,
            width_mult=width,
        )
        self.adds_input = stride == 1 and channels_in == channels_out
        self.squeezed = scaled(squeezed, width)
        if (expanded == channels_in) != (self.expanded_channels == self.input_channels):
            raise RecipeInvalid(
                f"model.width = {width}: leaves no channels to expand in mobilenet_v3_small; "
                "use a larger width"
            )

    @staticmethod
    def adjust_channels(channels: int, width_mult: float) -> int:
        return scaled(channels, width_mult)


def _block(row: _Row, norm_layer: Callable[..., nn.Module]) -> nn.Module:
    def squeeze(channels: int, _: int) -> nn.Module:
        layer: nn.Module = SqueezeExcitation(
            channels, row.squeezed, scale_activation=nn.Hardsigmoid
        )
        return layer

    block: Any = InvertedResidual(row, norm_layer, se_layer=squeeze)
    block.use_res_connect = row.adds_input
    module: nn.Module = block
    return module


def build(inputs: InputSpec, num_classes: int, options: MobileNetOptions) -> nn.Module:
    """Build ``mobilenet_v3_small`` with random weights, whatever ``pretrained`` says.

    Raises:
        RecipeInvalid: the images are not in colour, or the width leaves no channels.
    """
    if inputs.channels != _CHANNELS:
        raise RecipeInvalid(
            f'architecture = "mobilenet_v3_small": takes {_CHANNELS} channels, the data set has '
            f"{inputs.channels}; use cnn, mlp or resnet18"
        )
    is_small = options.stem == "cifar"
    blocks = [_Row(row, options.width) for row in (_CIFAR_BLOCKS if is_small else _IMAGENET_BLOCKS)]
    last = scaled(_LAST_CHANNEL, options.width)
    network: nn.Module = MobileNetV3(
        blocks, last_channel=last, num_classes=num_classes, block=_block
    )
    if is_small:
        _keep_resolution(network)
    return network


def _keep_resolution(network: nn.Module) -> None:
    """Give the first convolution stride 1, for which torchvision offers no argument.

    It enters neither the weights' shapes nor their random start.
    """
    stem = network.get_submodule("features.0.0")
    if not isinstance(stem, nn.Conv2d):
        raise TypeError("torchvision's MobileNetV3 no longer begins with a convolution")
    stem.stride = (1, 1)


def load_pretrained(module: nn.Module) -> None:
    """Overwrite the weights with torchvision's ImageNet ones, all but the last layer's.

    Fetched once into torch's cache folder, checked against the hash in the file's name, and read
    by torch's restricted loader, which rebuilds tensors and nothing else.

    Raises:
        Unavailable: they are not in the cache and cannot be fetched.
    """
    weights = MobileNet_V3_Small_Weights.IMAGENET1K_V1
    try:
        fetched: dict[str, Any] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network; a file that is not what was named
        raise Unavailable(
            "pretrained = true: torchvision's weights for mobilenet_v3_small cannot be fetched; "
            "connect this machine once, or set pretrained = false",
            detail=repr(error),
        ) from error
    head = {k: v for k, v in module.state_dict().items() if k.startswith("classifier.3.")}
    module.load_state_dict({**fetched, **head})
