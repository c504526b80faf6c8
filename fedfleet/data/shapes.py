"""``shapes``: generated pictures of coloured shapes with their boxes, to train a detector on.

Each picture is a scene of some format between 3:4 and 2:1 that was scaled to a square, as cameras'
frames are: what a detector has learnt here it finds in the frames of ``shapes_scene`` too.

Legend: N = images of the split, M = most shapes of an image, T = tries to place a shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from fedfleet.data.boxes import NO_BOX, label_of_largest
from fedfleet.data.catalog import DatasetSource, DatasetSpec, Split
from fedfleet.data.config import ShapesOptions
from fedfleet.data.draws import Draws
from fedfleet.data.images import BoxedImages, Boxes, Index, Labels, Pixels
from fedfleet.data.shape_drawing import NAMES, Numbers, Placed, draw_ground, paint, reach
from fedfleet.types import InputSpec

_SEED = 0  # fixed: the pictures are a function of the options alone
# Diameters as shares of the side of a square of the scene's area.
SMALLEST, LARGEST = 0.2, 0.5
# Width by height of the scenes.
NARROWEST, WIDEST = 3 / 4, 2.0
# A shape may hide so much of another's box, measured by the smaller one.
_MOST_HIDDEN = 0.25
_TRIES = 6
_EMPTY = 1 / 16  # share of the pictures without a shape: a camera mostly sees none
# Draws of a shape: label, diameter, angle, three for its colour, two for each try to place it.
_OF_SHAPE = 6 + 2 * _TRIES

# Mean and standard deviation of the training split's pixels.
_MEAN, _STD = (0.455, 0.455, 0.455), (0.156, 0.156, 0.156)


@dataclass(frozen=True)
class Layout:
    """Where the shapes of a split's pictures are; lengths are shares of the picture's sides.

    Args:
        boxes: float32, shape (N, M, 5).
        centres, half_sizes: shape (N, M, 2); of the ellipses in which the shapes' corners lie.
        angles: shape (N, M), in radians.
        colours: shape (N, M, 3), from 0 to 255.
    """

    boxes: Boxes
    centres: Numbers
    half_sizes: Numbers
    angles: Numbers
    colours: Numbers

    def shapes(self, row: int, side: int) -> Iterator[Placed]:
        """The shapes of a picture of so many pixels, from back to front."""
        for place in np.flatnonzero(self.boxes[row, :, 0] != NO_BOX):
            x, y = side * self.centres[row, place]
            half_width, half_height = side * self.half_sizes[row, place]
            label = int(self.boxes[row, place, 0])
            red, green, blue = self.colours[row, place].tolist()
            angle = float(self.angles[row, place])
            yield Placed(label, x, y, half_width, half_height, angle, (red, green, blue))


class ShapeImages:
    """One split; a picture is drawn when it is asked for."""

    def __init__(self, layout: Layout, split: Split, side: int) -> None:
        self._layout = layout
        self._split = split
        self._side = side
        self._labels = label_of_largest(layout.boxes)

    @property
    def labels(self) -> Labels:
        return self._labels

    def load(self, index: Index) -> Pixels:
        """Draw the pictures of an index."""
        images = np.empty((len(index), 3, self._side, self._side), np.uint8)
        for place, row in enumerate(index.tolist()):
            draws = Draws(_SEED, "shapes", self._split, str(row))
            images[place] = draw_ground(draws, self._side, self._side)
            for shape in self._layout.shapes(row, self._side):
                paint(images[place], shape)
        return images

    def load_boxes(self, index: Index) -> Boxes:
        return self._layout.boxes[index]


@dataclass(frozen=True)
class Shapes:
    """The data set; the test split has a quarter as many pictures, of its own."""

    def describe(self, options: ShapesOptions) -> DatasetSpec:
        side = options.image_size
        inputs = InputSpec(channels=3, height=side, width=side, mean=_MEAN, std=_STD)
        return DatasetSpec(inputs, NAMES, kind="detection")

    def open(self, options: ShapesOptions, split: Split, data_dir: Path | None) -> BoxedImages:
        """Lay a split out; draws nothing yet."""
        count = options.samples if split == "train" else options.samples // 4
        return ShapeImages(lay_out(split, count, options.most), split, options.image_size)


@lru_cache(maxsize=4)
def lay_out(split: Split, count: int, most: int) -> Layout:
    """Choose the shapes of so many pictures and their places; the first ones of a larger split
    with the same ``most`` are those of a smaller one.
    """
    numbers = Draws(_SEED, "shapes", split).uniforms(count * (2 + most * _OF_SHAPE))
    numbers = numbers.reshape(count, 2 + most * _OF_SHAPE)
    of_shape = numbers[:, 2:].reshape(count, most, _OF_SHAPE)
    wanted = np.where(
        numbers[:, 0] < _EMPTY, 0, np.ceil((numbers[:, 0] - _EMPTY) / (1 - _EMPTY) * most)
    )
    stretch = np.sqrt(NARROWEST * (WIDEST / NARROWEST) ** numbers[:, 1])[:, np.newaxis]
    radius = SMALLEST / 2 * (LARGEST / SMALLEST) ** of_shape[:, :, 1]
    half_sizes = np.stack((radius / stretch, radius * stretch), axis=2)
    labels = np.floor(of_shape[:, :, 0] * len(NAMES)).astype(np.int64)
    angles = 2 * np.pi * of_shape[:, :, 2]
    centres, is_placed = _place(of_shape[:, :, 6:], half_sizes)
    is_shown = is_placed & (np.cumsum(is_placed, axis=1) <= wanted[:, np.newaxis])
    sides = reach(labels, angles).reshape(count, most, 2, 2) * half_sizes[:, :, np.newaxis]
    corners = (centres[:, :, np.newaxis] + sides).reshape(count, most, 4).clip(0, 1)
    boxes = np.concatenate((labels[:, :, np.newaxis], corners), axis=2).astype(np.float32)
    boxes[~is_shown] = (NO_BOX, 0, 0, 0, 0)
    return Layout(boxes, centres, half_sizes, angles, vivid(of_shape[:, :, 3:6]))


def _place(
    tries: Numbers, half_sizes: Numbers
) -> tuple[Numbers, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Find each shape a place where it hides little of those before it, and is whole."""
    count, most, _ = half_sizes.shape
    centres = np.zeros((count, most, 2))
    is_placed = np.zeros((count, most), bool)
    for place in range(most):
        half = half_sizes[:, place]
        for candidate in tries[:, place].reshape(count, _TRIES, 2).swapaxes(0, 1):
            centre = half + candidate * (1 - 2 * half)
            apart = np.abs(centre[:, np.newaxis] - centres[:, :place])
            both = half[:, np.newaxis] + half_sizes[:, :place]
            smaller = np.minimum(half[:, np.newaxis], half_sizes[:, :place])
            common = (both - apart).clip(0, 2 * smaller).prod(axis=2)
            is_hiding = common > _MOST_HIDDEN * (2 * smaller).prod(axis=2)
            is_free = ~(is_hiding & is_placed[:, :place]).any(axis=1) & ~is_placed[:, place]
            centres[is_free, place] = centre[is_free]
            is_placed[is_free, place] = True
    return centres, is_placed


def vivid(numbers: Numbers) -> Numbers:
    """Colours (..., 3) far from grey, from numbers between 0 and 1."""
    hue, saturation, value = 6 * numbers[..., 0], numbers[..., 1], numbers[..., 2]
    wheel = np.stack([(hue + shift) % 6 for shift in (0, 4, 2)], axis=-1)
    share = (np.abs(wheel - 3) - 1).clip(0, 1)
    saturation, value = 0.65 + 0.35 * saturation, 255 * (0.6 + 0.4 * value)
    colours: Numbers = value[..., np.newaxis] * (1 - saturation[..., np.newaxis] * (1 - share))
    return colours


SHAPES: DatasetSource = Shapes()
