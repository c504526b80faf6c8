"""MobileNetV3-Small (Howard et al. 2019, arXiv:1905.02244, table 2), from torchvision's parts.

Legend: B = batch, H, W = input size, K = classes.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fedfleet.errors import RecipeInvalid, Unavailable
from fedfleet.models.config import MobileNetOptions
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.types import InputSpec

ensure_torchvision_ops()
# The next import fails without the line above, so it cannot stand at the top.
from torchvision.models.mobilenetv3 import (  # noqa: E402
    InvertedResidualConfig,
    MobileNet_V3_Small_Weights,
    MobileNetV3,
    mobilenet_v3_small,
)

_CHANNELS = 3
_LAST_CHANNEL = 1024

# Table 2: input channels, kernel, expanded channels, output channels, squeeze-and-excite,
# non-linearity, stride. Only the first block's stride differs from the table (there 2): with the
# stem's stride 1 a 32x32 image keeps a 4x4 map, where the table's strides leave one pixel.
_CIFAR_BLOCKS = (
    (16, 3, 16, 16, True, "RE", 1),
    (16, 3, 72, 24, False, "RE", 2),
    (24, 3, 88, 24, False, "RE", 1),
    (24, 5, 96, 40, True, "HS", 2),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 120, 48, True, "HS", 1),
    (48, 5, 144, 48, True, "HS", 1),
    (48, 5, 288, 96, True, "HS", 2),
    (96, 5, 576, 96, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
)


def build(inputs: InputSpec, num_classes: int, options: MobileNetOptions) -> nn.Module:
    """Build ``mobilenet_v3_small`` with random weights, whatever ``pretrained`` says.

    Raises:
        RecipeInvalid: the images are not in colour.
    """
    if inputs.channels != _CHANNELS:
        raise RecipeInvalid(
            f'architecture = "mobilenet_v3_small": takes {_CHANNELS} channels, the data set has '
            f"{inputs.channels}; use cnn, mlp or resnet18"
        )
    if options.stem == "cifar":
        return _cifar(num_classes)
    # torchvision ships no types that mypy may follow, hence the annotation.
    network: nn.Module = mobilenet_v3_small(weights=None, num_classes=num_classes)
    return network


def _cifar(num_classes: int) -> nn.Module:
    blocks = [
        InvertedResidualConfig(*block, dilation=1, width_mult=1.0)  # fills the row's last columns
        for block in _CIFAR_BLOCKS
    ]
    network: nn.Module = MobileNetV3(blocks, last_channel=_LAST_CHANNEL, num_classes=num_classes)
    # torchvision offers no argument for the first convolution's stride. It enters neither the
    # weights' shapes nor their random start, so setting it here is the whole change.
    stem = network.get_submodule("features.0.0")
    if not isinstance(stem, nn.Conv2d):
        raise TypeError("torchvision's MobileNetV3 no longer begins with a convolution")
    stem.stride = (1, 1)
    return network


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
