"""A small single-shot detector for devices without an accelerator (after SSD: Liu et al. 2016,
arXiv:1512.02325), meant for images of 128x128 pixels.

Legend: B = batch, C = input channels, H, W = input size, A = anchors, K = classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedfleet.errors import RecipeInvalid
from fedfleet.models.anchors import GRIDS
from fedfleet.models.config import SsdTinyOptions
from fedfleet.models.detection import OFFSETS
from fedfleet.models.layers import MakeNorm, make_norm, scaled
from fedfleet.types import InputSpec

GRID = GRIDS["ssd_tiny"]
_SMALLEST_SIDE = 32
_STEM = (16, 32)
# Channels of the stages, each of half the resolution of the one before; each is looked at.
_STAGES = (48, 64, 96, 96)


class _Unit(nn.Sequential):
    """A convolution of 3x3, its normalisation, a rectifier."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, norm: MakeNorm, width: float
    ) -> None:
        super().__init__(
            nn.Conv2d(
                channels_in, scaled(channels_out, width), 3, stride=stride, padding=1, bias=False
            ),
            norm(channels_out),
            nn.ReLU(inplace=True),
        )


class SsdTiny(nn.Module):
    """Two convolutions, then four stages of two; a convolution on each stage answers its anchors.

    The answers' layers are as wide at every width, so that levels share anchors and classes.
    """

    def __init__(self, inputs: InputSpec, num_classes: int, options: SsdTinyOptions) -> None:
        super().__init__()
        width = options.width
        norm = make_norm(options.norm, options.groups, width)
        first, second = _STEM
        self.stem = nn.Sequential(
            _Unit(inputs.channels, first, 2, norm, width),
            _Unit(scaled(first, width), second, 2, norm, width),
        )
        below = (second, *_STAGES)
        self.stages = nn.ModuleList(
            nn.Sequential(
                _Unit(scaled(channels_in, width), channels_out, 2, norm, width),
                _Unit(scaled(channels_out, width), channels_out, 1, norm, width),
            )
            for channels_in, channels_out in zip(below, _STAGES, strict=False)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(
                scaled(channels, width),
                GRID.per_place * (OFFSETS + 1 + num_classes),
                3,
                padding=1,
            )
            for channels in _STAGES
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return offsets and logits of every anchor, shape (B, A, 4 + 1 + K)."""
        maps = self.stem(images_BCHW)
        answers = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            maps = stage(maps)
            answers.append(by_anchor(head(maps), GRID.per_place))
        return torch.cat(answers, dim=1)


def by_anchor(maps: Tensor, per_place: int) -> Tensor:
    """Turn a head's maps (B, anchors * columns, H, W) into rows (B, H * W * anchors, columns)."""
    columns = maps.shape[1] // per_place
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, columns)


def build(inputs: InputSpec, num_classes: int, options: SsdTinyOptions) -> nn.Module:
    """Build ``ssd_tiny``.

    Raises:
        RecipeInvalid: the images are smaller than 32x32, or the groups divide no channels.
    """
    if min(inputs.height, inputs.width) < _SMALLEST_SIDE:
        raise RecipeInvalid(
            f'architecture = "ssd_tiny": needs images of {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels '
            f"or more, the data set has {inputs.height}x{inputs.width}"
        )
    return SsdTiny(inputs, num_classes, options)
