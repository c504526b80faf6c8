"""Boxes against boxes: how far they overlap, and the same boxes as centre and sides.

Legend: N, M = boxes. Rows are (left, top, right, bottom), as shares of the frame's sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedfleet_inference_api.cameras.seen import Box

Rows = npt.NDArray[np.float64]

FRAME: Box = (0.0, 0.0, 1.0, 1.0)


def rows_of(boxes: Sequence[Box]) -> Rows:
    """Boxes as float64, shape (N, 4), also where there are none."""
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def overlap(boxes: Rows, others: Rows) -> Rows:
    """Intersection over union of each box (N, 4) with each other one (M, 4), shape (N, M)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = np.clip(high - low, 0.0, None).prod(axis=2)
    whole = _areas(boxes)[:, None] + _areas(others)[None, :] - both
    shares: Rows = np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)
    return shares


def grow(boxes: Rows, share: float) -> Rows:
    """Each box (N, 4) longer at each end by a share of its sides; may leave the frame."""
    margin = share * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)


def meet(box: Box, others: Sequence[Box]) -> bool:
    """Whether a box has a point in common with one of the others."""
    return any(
        box[0] <= other[2] and other[0] <= box[2] and box[1] <= other[3] and other[1] <= box[3]
        for other in others
    )


def clip(box: Box) -> Box:
    """The part of a box that is in the frame."""
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in box)
    return left, top, right, bottom


def _areas(boxes: Rows) -> Rows:
    areas: Rows = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas
