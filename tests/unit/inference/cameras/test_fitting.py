from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.types import InputSpec
from fedfleet_inference_api.cameras.fitting import SMALLEST, fit_part, fit_whole, with_margin
from fedfleet_inference_api.cameras.overlap import FRAME


def inputs(height: int, width: int, channels: int = 3) -> InputSpec:
    each = (0.5,) * channels
    return InputSpec(channels=channels, height=height, width=width, mean=each, std=each)


def marked(height: int, width: int, box: tuple[float, float, float, float]) -> np.ndarray:
    """A black frame with a white box."""
    pixels = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    pixels[
        round(top * height) : round(bottom * height), round(left * width) : round(right * width)
    ] = 255
    return pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_fit_whole_keeps_shares(channels: int):
    box = (0.25, 0.5, 0.5, 1.0)

    image = fit_whole(marked(360, 640, box), inputs(128, 128, channels))

    assert image.shape == (channels, 128, 128)
    assert image.dtype == np.uint8
    assert (image[:, 66:126, 34:62] == 255).all()
    assert image[:, :62].max() == image[:, :, :30].max() == image[:, :, 66:].max() == 0


def test_fit_part_keeps_the_shape_of_things():
    pixels = marked(360, 640, (0.25, 0.25, 0.25 + 90 / 640, 0.5))  # a square of 90 pixels

    image = fit_part(pixels, (0.2, 0.2, 0.5, 0.6), inputs(100, 100))

    rows, columns = np.nonzero(image[0] > 127)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1


def test_fit_part_of_a_whole_wide_frame_is_filled_above_and_below():
    image = fit_part(marked(90, 160, FRAME), FRAME, inputs(64, 64))

    assert (image[:, 14:50] == 255).all()
    assert (image[:, :13] == 128).all()
    assert (image[:, 51:] == 128).all()


def test_fit_part_at_an_edge_moves_inside_the_frame():
    image = fit_part(np.full((360, 640, 3), 255, np.uint8), (0.9, 0.0, 1.0, 1.0), inputs(32, 32))

    assert (image == 255).all()


SHARES = st.floats(0, 0.99)


@settings(max_examples=60)
@given(
    frame=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    corner=st.tuples(SHARES, SHARES),
    sides=st.tuples(SHARES, SHARES),
)
def test_fit_part_fits_any_part_of_any_frame(frame, size, corner, sides):
    part = with_margin(
        (corner[0], corner[1], min(1, corner[0] + sides[0]), min(1, corner[1] + sides[1]))
    )

    image = fit_part(np.full((*frame, 3), 255, np.uint8), part, inputs(*size))

    assert image.shape == (3, *size)
    assert (image == 255).any()  # something of the frame
    assert set(np.unique(image)) <= {128, 255}


def test_with_margin_shows_more_than_the_region():
    assert np.allclose(with_margin((0.4, 0.4, 0.6, 0.6)), (0.36, 0.36, 0.64, 0.64))
    left, top, right, bottom = with_margin((0.5, 0.5, 0.5, 0.5))
    assert (right - left, bottom - top) == pytest.approx((SMALLEST, SMALLEST))
    assert with_margin((0.0, 0.9, 1.0, 1.0))[::2] == (0.0, 1.0)
