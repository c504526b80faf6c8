from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.boxes import (
    NO_BOX,
    areas,
    check_boxes,
    count_boxes,
    label_of_largest,
    pad_boxes,
)
from fedfleet.errors import DataInvalid

CLASSES = 5
GRID = 64  # sides in 64ths, which float32 holds exactly


@st.composite
def boxes_of_an_image(draw: st.DrawFn) -> np.ndarray:
    rows = []
    for _ in range(draw(st.integers(0, 6))):
        left, top = draw(st.integers(0, GRID - 1)), draw(st.integers(0, GRID - 1))
        right, bottom = draw(st.integers(left + 1, GRID)), draw(st.integers(top + 1, GRID))
        sides = (side / GRID for side in (left, top, right, bottom))
        rows.append((draw(st.integers(0, CLASSES - 1)), *sides))
    return np.array(rows, np.float32).reshape(-1, 5)


@given(st.lists(boxes_of_an_image(), max_size=6))
def test_padding_keeps_every_box_and_adds_none(images):
    padded = pad_boxes(images)

    check_boxes(padded, len(images), CLASSES)
    assert padded.shape[1] == max([1, *map(len, images)])
    for row, image in zip(padded, images, strict=True):
        assert np.array_equal(row[row[:, 0] != NO_BOX], image)
    every = np.concatenate([np.empty((0, 5)), *images])
    assert count_boxes(padded, CLASSES).tolist() == [(every[:, 0] == c).sum() for c in range(5)]


@given(st.lists(boxes_of_an_image(), min_size=1, max_size=6))
def test_label_is_the_class_of_the_largest_box(images):
    labels = label_of_largest(pad_boxes(images))

    assert labels.dtype == np.int64
    for label, image in zip(labels, images, strict=True):
        if len(image) == 0:
            assert label == 0
        else:
            assert areas(image)[image[:, 0] == label].max() == areas(image).max()


def test_padding_of_no_image_and_no_box_has_a_shape():
    assert pad_boxes([]).shape == (0, 1, 5)
    assert label_of_largest(np.empty((3, 0, 5), np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ((5, 0, 0, 1, 1), "labels of boxes run from 5 to 5, there are 5 classes"),
        ((-7, 0, 0, 1, 1), "labels of boxes run from -7"),
        ((0.5, 0, 0, 1, 1), "labels of boxes"),
        ((np.nan, 0, 0, 1, 1), "labels of boxes"),
        ((0, 0, 0, 1.01, 1), "left < right"),
        ((0, -0.01, 0, 1, 1), "left < right"),
        ((0, 0.5, 0, 0.5, 1), "left < right"),
        ((0, 0, 0.6, 1, 0.5), "left < right"),
        ((0, np.nan, 0, 1, 1), "left < right"),
    ],
)
def test_boxes_that_no_detector_can_learn_are_refused(row, text):
    with pytest.raises(DataInvalid, match=text) as caught:
        check_boxes(np.array([[row]], np.float32), 1, CLASSES)
    assert caught.value.code == "DATA_INVALID"


@pytest.mark.parametrize(
    "boxes",
    [
        np.zeros((2, 1, 5), np.float32),
        np.zeros((1, 1, 4), np.float32),
        np.zeros((1, 5), np.float32),
        np.zeros((1, 1, 5), np.float64),
    ],
)
def test_boxes_of_another_shape_are_refused(boxes):
    with pytest.raises(DataInvalid, match="boxes have shape"):
        check_boxes(boxes, 1, CLASSES)
