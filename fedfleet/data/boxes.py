"""Boxes of a split's images: put together, summed up and checked.

Legend: n = images, M = boxes of the image that has most, k = boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Boxes, Labels
from fedfleet.errors import DataInvalid

# The label of a row that stands for no box.
NO_BOX = -1


def ignored_label(label: int) -> int:
    """The label of a region that may hold things of a class, and that nobody is judged by: a crowd,
    or what was too hard to tell. It is below NO_BOX.
    """
    return NO_BOX - 1 - label


def ignored_class(labels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The classes that ``ignored_label`` made these labels of."""
    classes: npt.NDArray[np.int64] = NO_BOX - 1 - labels.astype(np.int64)
    return classes


def pad_boxes(boxes: Sequence[Boxes]) -> Boxes:
    """Put the boxes of several images into one array (n, M, 5); M is at least 1.

    Args:
        boxes: of each image, shape (k, 5).
    """
    most = max((len(of_one) for of_one in boxes), default=0)
    padded = np.zeros((len(boxes), max(1, most), 5), np.float32)
    padded[:, :, 0] = NO_BOX
    for place, of_one in enumerate(boxes):
        padded[place, : len(of_one)] = of_one
    return padded


def label_of_largest(boxes: Boxes) -> Labels:
    """The class of each image's largest box, the first of several; 0 where there is none."""
    if boxes.shape[1] == 0:
        return np.zeros(len(boxes), np.int64)
    rows = np.arange(len(boxes))
    area = np.where(boxes[:, :, 0] < 0, -1.0, areas(boxes))
    largest: Labels = boxes[rows, area.argmax(axis=1), 0].astype(np.int64)
    return largest.clip(min=0)


def areas(boxes: Boxes) -> npt.NDArray[np.float32]:
    """The area of each box as a share of the image's, shape (n, M)."""
    sizes = boxes[..., 3:5] - boxes[..., 1:3]
    products: npt.NDArray[np.float32] = sizes[..., 0] * sizes[..., 1]
    return products


def count_boxes(boxes: Boxes, classes: int) -> npt.NDArray[np.int64]:
    """How many boxes of each class there are, shape (classes,)."""
    labels = boxes[:, :, 0]
    return np.bincount(labels[labels >= 0].astype(np.int64), minlength=classes)


def check_boxes(boxes: Boxes, images: int, classes: int) -> None:
    """Refuse boxes that are not what a detector is trained on.

    Raises:
        DataInvalid: another shape or dtype, a label that is no class, or a side outside the image.
    """
    if boxes.ndim != 3 or boxes.shape[::2] != (images, 5) or boxes.dtype != np.float32:
        raise DataInvalid(
            f"boxes have shape {boxes.shape} ({boxes.dtype}), "
            f"expected ({images}, boxes, 5) (float32)"
        )
    labels, corners = boxes[:, :, 0], boxes[:, :, 1:]
    is_box = labels != NO_BOX
    real = corners[is_box]
    if not np.isin(labels[is_box], np.arange(ignored_label(classes - 1), classes)).all():
        raise DataInvalid(
            f"labels of boxes run from {labels.min():g} to {labels.max():g}, there are {classes} "
            f"classes (0 to {classes - 1})"
        )
    # Written so that what is not a number fails too.
    if not ((real >= 0) & (real <= 1)).all() or not (real[:, :2] < real[:, 2:]).all():
        raise DataInvalid(
            "a box must have left < right and top < bottom, as shares of the image from 0 to 1"
        )
