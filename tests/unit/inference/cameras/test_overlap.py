from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.overlap import clip, grow, meet, overlap, rows_of


def cells(box: tuple[float, ...]) -> set[tuple[int, int]]:
    return {
        (x, y)
        for x in range(round(8 * box[0]), round(8 * box[2]))
        for y in range(round(8 * box[1]), round(8 * box[3]))
    }


# On a grid of eighths, where boxes are sets of cells.
SPANS = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(sorted)
BOXES = st.tuples(SPANS, SPANS).map(
    lambda span: (span[0][0] / 8, span[1][0] / 8, span[0][1] / 8, span[1][1] / 8)
)


@given(BOXES, BOXES)
def test_overlap_is_the_share_of_common_cells(one: tuple[float, ...], other: tuple[float, ...]):
    both, whole = len(cells(one) & cells(other)), len(cells(one) | cells(other))

    share = overlap(rows_of([one]), rows_of([other]))[0, 0]

    assert share == pytest.approx(both / whole if whole else 0)


def test_overlap_has_a_row_for_each_box_and_a_column_for_each_other():
    assert overlap(rows_of([]), rows_of([(0, 0, 1, 1)])).shape == (0, 1)
    assert (
        overlap(rows_of([(0, 0, 1, 1)] * 2), rows_of([(0, 0, 1, 1)] * 3)).tolist() == [[1] * 3] * 2
    )


def test_grow_lengthens_each_end_by_a_share():
    assert np.allclose(grow(rows_of([(0.2, 0.4, 0.4, 0.8)]), 0.5), [[0.1, 0.2, 0.5, 1.0]])


def test_boxes_that_share_an_edge_meet():
    assert meet((0.0, 0.0, 0.5, 1.0), [(0.9, 0.9, 1.0, 1.0), (0.5, 0.0, 1.0, 1.0)])
    assert not meet((0.0, 0.0, 0.4, 1.0), [(0.5, 0.0, 1.0, 1.0)])
    assert not meet((0.0, 0.0, 0.4, 1.0), [])


def test_clip_keeps_what_is_in_the_frame():
    assert clip((-0.5, 0.2, 0.5, 1.7)) == (0.0, 0.2, 0.5, 1.0)
