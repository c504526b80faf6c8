"""Draws coloured shapes on textured ground; the same pixels on every device.

What is summed in an order that a library chooses are whole numbers that float32 holds exactly; the
rest is done element by element, which IEEE 754 rounds alike everywhere.

Legend: H, W = height, width, h, w = those of the part that a shape covers, E = edges of a shape,
P = octaves' grid points along a side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedfleet.data.draws import Draws
from fedfleet.data.images import Pixels

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Colour = tuple[float, float, float]

# Each shape but the circle as a star polygon {corners/step} (Coxeter 1948, section 6.1).
_POLYGONS: Mapping[str, tuple[int, int]] = {"square": (4, 1), "triangle": (3, 1), "star": (5, 2)}
NAMES = ("circle", *_POLYGONS)

# Cells of the ground's noise along each side, and the brightest grey level of each octave.
_OCTAVES = ((3, 60), (6, 40), (12, 28), (24, 20), (48, 14))
# Weights of the interpolation are whole numbers up to this one: all sums stay below 2^24.
_WEIGHT = 64
# OpenBLAS takes several threads for more multiplications than these at once: on a machine that is
# busy training they wait for each other far longer than one takes alone.
_ALONE = 1 << 18
_MEAN = sum(most for _, most in _OCTAVES) / 2


@dataclass(frozen=True, slots=True)
class Placed:
    """A shape in a picture.

    Args:
        label: its place in ``NAMES``.
        x, y: its centre, in pixels from the left and the top.
        half_width, half_height: those of the ellipse in which its corners lie, in pixels.
        angle: by which it is turned, in radians, before the picture is stretched.
        colour: red, green, blue from 0 to 255.
    """

    label: int
    x: float
    y: float
    half_width: float
    half_height: float
    angle: float
    colour: Colour

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels."""
        left, top, right, bottom = reach(np.array(self.label), np.array(self.angle)).tolist()
        return (
            self.x + left * self.half_width,
            self.y + top * self.half_height,
            self.x + right * self.half_width,
            self.y + bottom * self.half_height,
        )


def reach(labels: npt.NDArray[np.int64], angles: Numbers) -> Numbers:
    """How far shapes of size 1 reach from their centres to the left, top, right and bottom.

    Args:
        labels, angles: of one shape, any; the answer has four numbers for each.
    """
    sides = np.empty((*labels.shape, 4))
    sides[...] = (-1.0, -1.0, 1.0, 1.0)
    for name, (corners, _) in _POLYGONS.items():
        chosen = labels == NAMES.index(name)
        turned = angles[chosen][:, np.newaxis] + 2 * math.pi / corners * np.arange(corners)
        xs, ys = np.cos(turned), np.sin(turned)
        limits = (xs.min(axis=1), ys.min(axis=1), xs.max(axis=1), ys.max(axis=1))
        sides[chosen] = np.stack(limits, axis=1)
    return sides


def draw_ground(draws: Draws, height: int, width: int) -> Pixels:
    """A picture (3, H, W) of a little tinted grey, with blobs from large to small on it."""
    base = 70.0 + 90.0 * draws.uniform()
    tint = 40.0 * (draws.uniforms(3) - 0.5)
    contrast = 0.4 + 0.8 * draws.uniforms(3)
    noise_HW = _noise(draws, height, width)
    pixels = np.empty((3, height, width), np.uint8)
    for channel in range(3):
        level = np.float32(base + tint[channel])
        # Channels of nearly the same contrast: the ground is grey, what is colourful is a shape.
        gain = np.float32(0.8 * contrast[0] + 0.2 * contrast[channel])
        np.rint(level + gain * noise_HW).clip(0, 255, out=pixels[channel], casting="unsafe")
    return pixels


def paint(pixels: Pixels, shape: Placed) -> None:
    """Paint a shape over a picture (3, H, W), its edges smoothed."""
    rows = _reached(shape.y, shape.half_height)
    columns = _reached(shape.x, shape.half_width)
    part = pixels[:, rows, columns]
    if part.size == 0:
        return
    dx_w = (np.arange(part.shape[2]) + (columns.start + 0.5 - shape.x)).astype(np.float32)
    dy_h = (np.arange(part.shape[1]) + (rows.start + 0.5 - shape.y)).astype(np.float32)
    covered_hw = (np.float32(0.5) - _distance(shape, dx_w, dy_h)).clip(0, 1)
    for channel, level in enumerate(shape.colour):
        below = part[channel].astype(np.float32)
        np.rint(below + (np.float32(level) - below) * covered_hw).clip(
            0, 255, out=part[channel], casting="unsafe"
        )


def _reached(middle: float, half: float) -> slice:
    """The pixels of a side that a shape may touch."""
    return slice(max(0, math.floor(middle - half - 1)), max(0, math.ceil(middle + half + 1)))


def _distance(shape: Placed, dx_w: Floats, dy_h: Floats) -> Floats:
    """The distance of pixels from a shape's edge (h, w) in pixels, below 0 inside, to first order.

    Args:
        dx_w, dy_h: the pixels' distances from the centre.
    """
    polygon = _POLYGONS.get(NAMES[shape.label])
    if polygon is None:
        return _from_ellipse(shape, dx_w, dy_h)
    corners, step = polygon
    # A pixel is inside where it lies beyond fewer of the edges' lines than the step counts: its
    # distance is the step-th largest of those from the lines.
    largest = [np.full((len(dy_h), len(dx_w)), -np.inf, np.float32) for _ in range(step)]
    for corner in range(corners):
        # The line's normal; its distance from the centre of a shape of size 1 is cos(pi step / E).
        angle = shape.angle + math.pi / corners * (2 * corner + step)
        across, down = math.cos(angle) / shape.half_width, math.sin(angle) / shape.half_height
        length = math.hypot(across, down)
        offset = np.float32(math.cos(math.pi * step / corners) / length)
        along_w, along_h = dx_w * np.float32(across / length), dy_h * np.float32(down / length)
        distance_hw = (along_h - offset)[:, np.newaxis] + along_w
        for place in range(step):
            beyond_hw = np.maximum(largest[place], distance_hw)
            distance_hw = np.minimum(largest[place], distance_hw)
            largest[place] = beyond_hw
    return largest[-1]


def _from_ellipse(shape: Placed, dx_w: Floats, dy_h: Floats) -> Floats:
    """As ``_distance``: the ellipse's equation divided by the length of its gradient."""
    a, b = np.float32(shape.half_width), np.float32(shape.half_height)
    level_hw = np.sqrt((dy_h / b)[:, np.newaxis] ** 2 + (dx_w / a) ** 2)
    slope_hw = np.sqrt((dy_h / b**2)[:, np.newaxis] ** 2 + (dx_w / a**2) ** 2)
    distance_hw: Floats = level_hw * (level_hw - 1) / (slope_hw + np.float32(1e-9))
    return np.where(level_hw == 0, -a, distance_hw)


def _noise(draws: Draws, height: int, width: int) -> Floats:
    """Value noise of all octaves (H, W), whole steps from -_MEAN to _MEAN, interpolated."""
    points = [cells + 1 for cells, _ in _OCTAVES]
    uniforms = draws.uniforms(sum(n * n for n in points))
    rows_HP, columns_PW = _weights(height), _weights(width).T
    mixed_HP = np.empty_like(rows_HP)
    value, place = 0, 0
    for n, (_, most) in zip(points, _OCTAVES, strict=True):
        grid = np.floor(uniforms[value : value + n * n].reshape(n, n) * (most + 1))
        mixed_HP[:, place : place + n] = rows_HP[:, place : place + n] @ grid.astype(np.float32)
        value, place = value + n * n, place + n
    noise = np.empty((height, width), np.float32)
    rows = max(1, _ALONE // columns_PW.size)
    for row in range(0, height, rows):
        np.matmul(mixed_HP[row : row + rows], columns_PW, out=noise[row : row + rows])
    noise *= np.float32(_WEIGHT**-2)
    noise -= np.float32(_MEAN)
    return noise


@lru_cache(maxsize=8)
def _weights(side: int) -> Floats:
    """How much each grid point of each octave counts at each pixel of a side, shape (side, P)."""
    parts = []
    for cells, _ in _OCTAVES:
        # In whole numbers: pixel centres at odd multiples of half a pixel.
        place = (2 * np.arange(side) + 1) * cells * _WEIGHT // (2 * side)
        cell, weight = place // _WEIGHT, place % _WEIGHT
        part = np.zeros((side, cells + 1), np.float32)
        part[np.arange(side), cell] = _WEIGHT - weight
        part[np.arange(side), cell + 1] = weight
        parts.append(part)
    weights = np.concatenate(parts, axis=1)
    weights.setflags(write=False)
    return weights
