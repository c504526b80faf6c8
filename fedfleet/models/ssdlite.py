"""SSDLite on MobileNetV3-Large (Howard et al. 2019, arXiv:1905.02244, section 6.3), torchvision's.

Legend: B = batch, H, W = input size, A = anchors, K = classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedfleet.errors import RecipeInvalid, Unavailable
from fedfleet.models.config import SsdLiteOptions
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.types import InputSpec

ensure_torchvision_ops()
# The next import fails without the line above, so it cannot stand at the top.
from torchvision.models.detection.ssdlite import (  # noqa: E402
    SSDLite320_MobileNet_V3_Large_Weights,
    ssdlite320_mobilenet_v3_large,
)

_CHANNELS = 3
_SMALLEST_SIDE = 64
_CLASSES_LAYERS = "head.classification_head."


class SsdLite(nn.Module):
    """torchvision's backbone and head, without what it does around them: no resizing, no boxes.

    Its tensors have torchvision's names.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # Its first class is the background.
        theirs: Any = ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes + 1
        )
        self.backbone: nn.Module = theirs.backbone
        self.head: nn.Module = theirs.head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return offsets and logits of every anchor, shape (B, A, 4 + 1 + K)."""
        found = self.head(list(self.backbone(images_BCHW).values()))
        return torch.cat([found["bbox_regression"], found["cls_logits"]], dim=2)


def build(inputs: InputSpec, num_classes: int, options: SsdLiteOptions) -> nn.Module:
    """Build ``ssdlite320_mobilenet_v3_large`` with random weights, whatever ``pretrained`` says.

    It is made for images of 320x320 pixels, and takes others.

    Raises:
        RecipeInvalid: the images are not in colour, or smaller than 64x64.
    """
    size = f"{inputs.channels} channels of {inputs.height}x{inputs.width}"
    if inputs.channels != _CHANNELS or min(inputs.height, inputs.width) < _SMALLEST_SIDE:
        raise RecipeInvalid(
            f'architecture = "ssdlite320_mobilenet_v3_large": takes {_CHANNELS} channels of '
            f"{_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels or more, the data set has {size}"
        )
    return SsdLite(num_classes)


def load_pretrained(module: nn.Module) -> None:
    """Overwrite the weights with torchvision's COCO ones, all but those that tell classes apart.

    Fetched and read as ``fedfleet.models.mobilenet.load_pretrained`` does.

    Raises:
        Unavailable: they are not in the cache and cannot be fetched.
    """
    weights = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
    try:
        fetched: dict[str, Any] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network; a file that is not what was named
        raise Unavailable(
            "pretrained = true: torchvision's weights for ssdlite320_mobilenet_v3_large cannot be "
            "fetched; connect this machine once, or set pretrained = false",
            detail=repr(error),
        ) from error
    kept = {k: v for k, v in module.state_dict().items() if k.startswith(_CLASSES_LAYERS)}
    module.load_state_dict({**fetched, **kept})
