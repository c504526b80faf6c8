"""Moves boxes along with the images that a flip or a crop moves.

Legend: B = batch, M = boxes of the image that has most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedfleet.data.boxes import NO_BOX
from fedfleet.training.augment import PAD_SHARE, Draws


def augment_boxes(boxes_BM5: Tensor, draws: Draws, size: tuple[int, int]) -> Tensor:
    """Apply a batch's draws to rows (label, left, top, right, bottom).

    A crop cuts boxes at its border; a box whose middle it leaves out is no longer one (as Liu et
    al. 2016, arXiv:1512.02325, section 2.2). What is left of a region that is ignored stays one.

    Args:
        size: height and width of the images in pixels.
    """
    labels_BM, corners_BM4 = boxes_BM5[..., 0], boxes_BM5[..., 1:]
    if draws.offset_N2 is not None:
        corners_BM4 = corners_BM4 - _moved(draws.offset_N2, size)[:, None, :]
        middle = (corners_BM4[..., :2] + corners_BM4[..., 2:]) / 2
        is_inside = ((middle > 0) & (middle < 1)).all(dim=2)
        stays = is_inside | (labels_BM < NO_BOX)
        labels_BM = torch.where(stays, labels_BM, float(NO_BOX))
        corners_BM4 = corners_BM4.clamp(0, 1)
    left, top, right, bottom = corners_BM4.unbind(2)
    flipped = torch.stack([1 - right, top, 1 - left, bottom], dim=2)
    corners_BM4 = torch.where(draws.flip_N[:, None, None], flipped, corners_BM4)
    return torch.cat([labels_BM[..., None], corners_BM4], dim=2)


def _moved(offset_B2: Tensor, size: tuple[int, int]) -> Tensor:
    """By which share of the sides each image moved to the left and up, twice: shape (B, 4)."""
    height, width = size
    rows = (offset_B2[:, 0] - height // PAD_SHARE) / height
    columns = (offset_B2[:, 1] - width // PAD_SHARE) / width
    return torch.stack([columns, rows, columns, rows], dim=1)
