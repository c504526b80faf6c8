"""Connected components of a mask, in numpy alone: where the moving pixels hang together.

Legend: H, W = size of the mask, N = runs (stretches of true pixels within a row), R = regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Regions:
    """What hangs together, the largest first; of equal ones the first from the top.

    Args:
        boxes: int64, shape (R, 4): left, top, right, bottom in pixels; right and bottom are one
            past the last.
        areas: int64, shape (R,): pixels of the region, not of its box.
    """

    boxes: Numbers
    areas: Numbers


def find_regions(mask: Mask) -> Regions:
    """The regions of true pixels (H, W) that touch at sides or corners."""
    rows, starts, ends = _runs(mask)
    if not len(rows):
        return Regions(np.zeros((0, 4), np.int64), np.zeros(0, np.int64))
    roots = _roots(len(rows), *_touching(rows, starts, ends, mask.shape[1]))
    _, place = np.unique(roots, return_inverse=True)
    count = int(place.max()) + 1
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    boxes[:, 2:] = -1
    for column, values, pick in (
        (0, starts, np.minimum),
        (1, rows, np.minimum),
        (2, ends, np.maximum),
        (3, rows + 1, np.maximum),
    ):
        pick.at(boxes[:, column], place, values)
    areas = np.zeros(count, np.int64)
    np.add.at(areas, place, ends - starts)
    order = np.argsort(-areas, kind="stable")
    return Regions(boxes[order], areas[order])


def _runs(mask: Mask) -> tuple[Numbers, Numbers, Numbers]:
    """Row, first column and the column past the last of each run, by row and column: (N,) each."""
    edged = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    edged[:, 1:-1] = mask
    steps = np.diff(edged, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return rows, starts, ends


def _touching(rows: Numbers, starts: Numbers, ends: Numbers, width: int) -> tuple[Numbers, Numbers]:
    """Pairs of runs in neighbouring rows that touch, as two arrays of their places."""
    step = width + 2  # so that the keys of two rows never meet
    first = np.searchsorted(rows * step + ends, (rows + 1) * step + starts, side="left")
    past = np.searchsorted(rows * step + starts, (rows + 1) * step + ends, side="right")
    counts = np.maximum(past - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + within


def _roots(count: int, upper: Numbers, lower: Numbers) -> Numbers:
    """For each run the least place of its region: hooking and pointer jumping until all agree."""
    parent = np.arange(count)
    while True:
        high, low = parent[upper], parent[lower]
        if np.array_equal(high, low):
            return parent
        np.minimum.at(parent, np.maximum(high, low), np.minimum(high, low))
        jumped = parent[parent]
        while not np.array_equal(jumped, parent):
            parent, jumped = jumped, jumped[jumped]
