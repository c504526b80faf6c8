from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedfleet_inference_api.cameras.labelling import find_regions

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


def flooded(mask: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    """Areas and boxes of all regions, by filling one after the other."""
    left = mask.copy()
    found = []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        open_, inside = [start], []
        left[start] = False
        while open_:
            row, column = open_.pop()
            inside.append((row, column))
            for near in np.ndindex(3, 3):
                place = (row + near[0] - 1, column + near[1] - 1)
                is_in = min(place) >= 0 and place[0] < mask.shape[0] and place[1] < mask.shape[1]
                if is_in and left[place]:
                    left[place] = False
                    open_.append(place)
        rows, columns = zip(*inside, strict=True)
        box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        found.append((len(inside), tuple(int(side) for side in box)))
    return sorted(found)


@given(MASKS)
def test_find_regions_finds_what_filling_finds(mask: np.ndarray):
    regions = find_regions(mask)

    found = zip(regions.areas.tolist(), map(tuple, regions.boxes.tolist()), strict=True)
    assert sorted(found) == flooded(mask)


@given(MASKS)
def test_find_regions_gives_the_largest_first(mask: np.ndarray):
    areas = find_regions(mask).areas

    assert (np.diff(areas) <= 0).all()
    assert areas.sum() == mask.sum()


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_find_regions_follows_a_spiral_as_one(size: tuple[int, int]):
    mask = np.zeros(size, np.bool_)
    row, column, step, turn = 0, 0, (0, 1), 0
    low, high = [0, 0], [size[0] - 1, size[1] - 1]
    while low[0] <= high[0] and low[1] <= high[1]:
        mask[row, column] = True
        after = (row + step[0], column + step[1])
        if not (low[0] <= after[0] <= high[0] and low[1] <= after[1] <= high[1]):
            step = (step[1], -step[0])
            turn += 1
            if turn >= 3:  # leave a wall between two turns
                side = (turn - 3) % 4
                low[0] += 2 * (side == 0)
                high[1] -= 2 * (side == 1)
                high[0] -= 2 * (side == 2)
                low[1] += 2 * (side == 3)
            after = (row + step[0], column + step[1])
            if not (low[0] <= after[0] <= high[0] and low[1] <= after[1] <= high[1]):
                break
        row, column = after

    assert len(flooded(mask)) == 1
    assert find_regions(mask).areas.tolist() == [mask.sum()]


@given(st.integers(1, 9), st.integers(1, 9))
def test_find_regions_of_an_empty_mask_is_none(height: int, width: int):
    assert find_regions(np.zeros((height, width), np.bool_)).boxes.shape == (0, 4)
