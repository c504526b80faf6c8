from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fedfleet.data.boxes import NO_BOX, areas, count_boxes, label_of_largest
from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.config import DataConfig, ShapesOptions
from fedfleet.data.images import BoxedImages
from fedfleet.data.shapes import LARGEST, WIDEST, lay_out


def config(**options: int) -> DataConfig:
    return DataConfig(dataset="shapes", options=ShapesOptions(**options))


def opened(split: str = "train", **options: int) -> BoxedImages:
    images = open_dataset(config(**options), split, None)
    assert isinstance(images, BoxedImages)
    return images


def every(images: BoxedImages) -> np.ndarray:
    return np.arange(len(images.labels))


def test_shapes_describe_a_detection_set():
    spec = describe(config(image_size=64))

    assert spec.kind == "detection"
    assert spec.inputs.shape == (3, 64, 64)
    assert spec.classes == ("circle", "square", "triangle", "star")


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("test", 10)])
def test_shapes_have_the_sizes_that_were_asked_for(split, count):
    images = opened(split, samples=40, image_size=48, most=3)

    assert images.load(every(images)).shape == (count, 3, 48, 48)
    assert images.load_boxes(every(images)).shape == (count, 3, 5)
    assert images.labels.shape == (count,)


def test_shapes_are_the_same_on_every_machine():
    """Another digest means that devices of another version hold other pictures."""
    images = opened(samples=8)

    pixels, boxes = images.load(every(images)), images.load_boxes(every(images))

    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "ec1cbd0b4cea30fc"
    np.testing.assert_allclose(boxes[1, 0], (1, 0.543753, 0.142730, 0.831042, 0.432470), atol=1e-6)


def test_shapes_are_in_the_order_of_the_index():
    images = opened(samples=20)
    index = np.array([7, 3, 7])

    assert np.array_equal(images.load(index)[1], images.load(np.array([3]))[0])
    assert np.array_equal(images.load(index)[0], images.load(index)[2])
    assert np.array_equal(images.load_boxes(index), images.load_boxes(every(images))[index])


def test_shapes_of_a_larger_split_begin_with_those_of_a_smaller_one():
    few, many = opened(samples=10), opened(samples=30)

    assert np.array_equal(few.load_boxes(every(few)), many.load_boxes(every(few)))
    assert np.array_equal(few.load(every(few)), many.load(every(few)))


def test_shapes_of_the_two_splits_differ():
    train, test = opened(samples=40), opened("test", samples=40)

    assert not np.isin(test.load_boxes(every(test))[..., 1], 0).all()
    assert (
        not (train.load_boxes(every(test)) == test.load_boxes(every(test))).all(axis=(1, 2)).any()
    )


def test_shapes_are_balanced_whole_and_hide_little_of_each_other():
    boxes = lay_out("train", 4000, 4).boxes
    is_box = boxes[:, :, 0] != NO_BOX
    corners = boxes[is_box][:, 1:]

    counts = count_boxes(boxes, 4)
    assert counts.min() > 0.9 * counts.max()
    assert 0.04 < (~is_box.any(axis=1)).mean() < 0.09
    assert (corners >= 0).all()
    assert (corners <= 1).all()
    assert (corners[:, :2] < corners[:, 2:]).all()
    assert (corners[:, 2:] - corners[:, :2]).max() <= LARGEST * WIDEST**0.5 + 1e-6
    for first in range(4):
        for second in range(first):
            both = is_box[:, first] & is_box[:, second]
            one, other = boxes[both, first], boxes[both, second]
            low, high = np.maximum(one, other)[:, 1:3], np.minimum(one, other)[:, 3:]
            common = (high - low).clip(0).prod(axis=1)
            # A circle's box is the ellipse's around its corners, a triangle's may be half of it.
            assert (common <= 0.6 * np.minimum(areas(one), areas(other))).all()
            assert (common > 0).any()


def test_labels_of_shapes_are_those_of_the_largest():
    images = opened(samples=200)

    assert np.array_equal(images.labels, label_of_largest(images.load_boxes(every(images))))


def test_pictures_show_shapes_in_their_boxes_and_ground_elsewhere():
    images = opened(samples=60)
    pixels = images.load(every(images)).astype(float)
    colourful = np.ptp(pixels, axis=1)
    inside, outside = [], []
    for picture, boxes in zip(colourful, images.load_boxes(every(images)), strict=True):
        is_ground = np.ones(picture.shape, bool)
        for label, *sides in boxes:
            if label != NO_BOX:
                left, top, right, bottom = np.rint(np.array(sides) * 128).astype(int)
                inside.append(picture[(top + bottom) // 2, (left + right) // 2])
                is_ground[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
        outside.append(picture[is_ground].mean())

    assert np.mean(np.array(inside) > 80) > 0.9
    assert max(outside) < 60
