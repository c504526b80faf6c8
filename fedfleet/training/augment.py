"""Random flips and crops of uint8 batches, drawn for a whole epoch at once.

Legend: N = examples of an epoch, B = batch, C = channels, H, W = height, width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedfleet.errors import RecipeInvalid
from fedfleet.types import InputSpec

PAD_SHARE = 8  # a crop moves by up to an eighth of the side: 4 pixels of 32


@dataclass(frozen=True)
class Draws:
    """What chance decided for each example of an epoch, by position in the epoch.

    Args:
        flip_N: bool; mirror left to right.
        offset_N2: int64; first row and column of the crop in the padded image; None: no crop.
    """

    flip_N: Tensor
    offset_N2: Tensor | None

    def part(self, start: int, stop: int, device: torch.device) -> Draws:
        """The draws of one batch, on the device of its images."""
        offset = None if self.offset_N2 is None else self.offset_N2[start:stop].to(device)
        return Draws(self.flip_N[start:stop].to(device), offset)


def check_augment(kind: Literal["none", "flip", "flip-crop"], inputs: InputSpec) -> None:
    """Refuse to mirror or cut what is no image.

    Raises:
        RecipeInvalid: the model reads text.
    """
    if kind != "none" and inputs.is_tokens:
        raise RecipeInvalid(f'training.augment = "{kind}": is of images, this model reads text')


def draw(
    kind: Literal["none", "flip", "flip-crop"],
    examples: int,
    size: tuple[int, int],
    generator: torch.Generator,
) -> Draws | None:
    """Draw for an epoch; None where nothing is augmented.

    Args:
        size: height and width of the images in pixels.
    """
    if kind == "none":
        return None
    flip = torch.rand(examples, generator=generator) < 0.5
    if kind == "flip":
        return Draws(flip, None)
    offsets = [
        torch.randint(0, 2 * (side // PAD_SHARE) + 1, (examples,), generator=generator)
        for side in size
    ]
    return Draws(flip, torch.stack(offsets, dim=1))


def augment(images_BCHW: Tensor, draws: Draws) -> Tensor:
    """Apply a batch's draws; the border that a crop uncovers is black (0)."""
    if draws.offset_N2 is not None:
        images_BCHW = _crop(images_BCHW, draws.offset_N2)
    return torch.where(draws.flip_N[:, None, None, None], images_BCHW.flip(3), images_BCHW)


def _crop(images_BCHW: Tensor, offset_B2: Tensor) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    pad_h, pad_w = height // PAD_SHARE, width // PAD_SHARE
    padded = F.pad(images_BCHW, (pad_w, pad_w, pad_h, pad_h))
    device = images_BCHW.device
    rows_BH = offset_B2[:, :1] + torch.arange(height, device=device)
    cols_BW = offset_B2[:, 1:] + torch.arange(width, device=device)
    flat_BHW = rows_BH[:, :, None] * padded.shape[3] + cols_BW[:, None, :]
    index = flat_BHW.reshape(batch, 1, height * width).expand(batch, channels, height * width)
    return padded.flatten(2).gather(2, index).reshape(batch, channels, height, width)
