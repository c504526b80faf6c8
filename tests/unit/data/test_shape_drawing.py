from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.data.draws import Draws
from fedfleet.data.shape_drawing import NAMES, Placed, draw_ground, paint

# Of a shape whose corners lie on a circle of radius 1.
AREAS = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    # Ten triangles between the middle, a point and a notch, which is at cos 72 / cos 36.
    "star": 5 * math.cos(math.radians(72)) * math.tan(math.radians(36)),
}
WHITE = (255.0, 255.0, 255.0)


def painted(shape: Placed, height: int = 96, width: int = 128) -> np.ndarray:
    """How much of each pixel is covered, from 0 to 255."""
    pixels = np.zeros((3, height, width), np.uint8)
    paint(pixels, shape)
    assert (pixels == pixels[0]).all()
    return pixels[0]


@st.composite
def shapes(draw: st.DrawFn) -> Placed:
    def number(least: float, most: float) -> float:
        return draw(st.floats(least, most))

    radius, stretch = number(8, 20), number(0.7, 1.4)
    sizes = (radius * stretch, radius / stretch)
    place = (number(35, 90), number(35, 60))
    return Placed(draw(st.integers(0, 3)), *place, *sizes, number(-7, 7), WHITE)


@given(shapes())
@settings(max_examples=80)
def test_bounds_are_those_of_what_is_painted(shape):
    is_covered = painted(shape) > 100
    rows, columns = (np.nonzero(is_covered.any(axis=axis))[0] for axis in (1, 0))
    left, top, right, bottom = shape.bounds

    # Smoothed edges reach half a pixel further, sharp corners fade that much earlier.
    further, earlier = 2.0, 6.0
    assert left - further <= columns[0] <= left + earlier
    assert right - earlier <= columns[-1] + 1 <= right + further
    assert top - further <= rows[0] <= top + earlier
    assert bottom - earlier <= rows[-1] + 1 <= bottom + further


@given(shapes())
@settings(max_examples=80)
def test_as_much_is_painted_as_the_shape_is_large(shape):
    area = AREAS[NAMES[shape.label]] * shape.half_width * shape.half_height

    assert painted(shape).sum() / 255 == pytest.approx(area, rel=0.06, abs=4)


@pytest.mark.parametrize("name", NAMES)
def test_shape_is_painted_where_its_corners_and_middle_are(name):
    covered = painted(Placed(NAMES.index(name), 64, 48, 40, 40, 0.0, WHITE))

    assert covered[48, 64] == 255
    assert covered[48, 64 + 35] > 0  # each has a corner to the right
    assert covered[48 - 38, 64 - 38] == 0


def test_shape_outside_the_picture_is_not_painted_and_one_at_its_edge_in_part():
    assert painted(Placed(0, 300, 48, 20, 20, 0.0, WHITE)).sum() == 0
    assert painted(Placed(1, -60, -60, 20, 20, 0.0, WHITE)).sum() == 0
    half = painted(Placed(0, 0, 48, 20, 20, 0.0, WHITE)).sum() / 255
    assert half == pytest.approx(math.pi * 200, rel=0.02)


def test_ground_is_the_same_on_every_machine():
    """Another digest means that devices of another version hold other pictures."""
    ground = draw_ground(Draws(1, "ground"), 90, 160)

    assert ground.shape == (3, 90, 160)
    assert hashlib.sha256(ground.tobytes()).hexdigest()[:16] == "c195dce40bcbc240"


def test_ground_has_texture_and_little_colour():
    ground = draw_ground(Draws(2, "ground"), 128, 128).astype(float)

    assert ground.std(axis=(1, 2)).min() > 5
    assert np.ptp(ground, axis=0).mean() < 45
