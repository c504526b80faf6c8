"""What a data set's split is: labels known at once, images decoded when they are asked for.

Legend: N = examples of the split, n = examples asked for, C = channels, H, W = size, T = tokens,
M = boxes of the image that has most.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Index = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
# Of each image (n, M, 5): rows of (label, left, top, right, bottom), the sides as shares of the
# image's in [0, 1]; an image with fewer boxes ends in rows whose label is -1. A label below -1 is
# of a region that counts for nothing (``boxes.ignored_label``).
Boxes = npt.NDArray[np.float32]


class LabeledImages(Protocol):
    """One split of a data set."""

    @property
    def labels(self) -> Labels:
        """The labels, int64, shape (N,), each from 0 to classes - 1. Not to be mutated."""

    def load(self, index: Index) -> Pixels:
        """Decode the rows of an index (n,), in its order: uint8, shape (n, C, H, W).

        Where the data set is described as tokens, their numbers: uint8, shape (n, T).

        Raises:
            DataInvalid: an image cannot be decoded; the text names it.
        """


@runtime_checkable
class OwnedImages(LabeledImages, Protocol):
    """A split of which each example belongs to somebody: a data set that comes with a split."""

    @property
    def owners(self) -> Index:
        """The number of each example's owner, int64, shape (N,)."""

    @property
    def owner_names(self) -> tuple[str, ...]:
        """By owner's number; each owns an example of this split. The same name is the same owner
        in both splits, the number need not be.
        """


@runtime_checkable
class BoxedImages(LabeledImages, Protocol):
    """A split of which each image has boxes: data to train a detector on.

    An image's label is the class of its largest box, 0 where it has none; partitions go by it.
    """

    def load_boxes(self, index: Index) -> Boxes:
        """The boxes of an index (n,), in its order: float32, shape (n, M, 5)."""


class FirstImages:
    """The first rows of a split.

    Args:
        count: how many at most.
    """

    def __init__(self, images: LabeledImages, count: int) -> None:
        self._images = images
        self._count = count

    @property
    def labels(self) -> Labels:
        return self._images.labels[: self._count]

    def load(self, index: Index) -> Pixels:
        return self._images.load(index)


class ArrayImages:
    """A split that is in memory as it is.

    Args:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
    """

    def __init__(self, images: Pixels, labels: Labels) -> None:
        self._images = images
        self._labels = labels

    @property
    def labels(self) -> Labels:
        return self._labels

    def load(self, index: Index) -> Pixels:
        return self._images[index]
