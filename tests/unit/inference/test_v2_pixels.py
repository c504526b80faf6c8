from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedfleet.errors import InvalidInput
from fedfleet_inference_api.v2_pixels import binary_bytes, pixels_from_binary, pixels_from_json

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
SHARES = SHAPES.flatmap(
    lambda shape: arrays.arrays(np.dtype("<f4"), shape, elements=st.floats(0, 1, width=32))
)


@given(SHARES, st.booleans())
def test_the_same_shares_are_the_same_pixels_as_json_and_as_bytes(shares, nested):
    numbers = shares.tolist() if nested else shares.ravel().tolist()

    from_bytes = pixels_from_binary(memoryview(shares.tobytes()), "FP32", shares.shape)
    from_json = pixels_from_json(numbers, "FP32", shares.shape)

    assert from_bytes.shape == shares.shape
    assert (from_bytes == from_json).all()
    assert np.abs(from_bytes / 255 - shares).max() <= 0.5 / 255 + 1e-7


@given(st.data())
def test_pixels_come_as_they_are(data):
    shape = data.draw(SHAPES)
    pixels = data.draw(arrays.arrays(np.uint8, shape))

    from_bytes = pixels_from_binary(memoryview(pixels.tobytes()), "UINT8", shape)

    assert (from_bytes == pixels).all()
    assert (pixels_from_json(pixels.tolist(), "UINT8", shape) == pixels).all()


def test_every_pixel_is_the_share_that_it_was_made_of():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    shares = (pixels / 255).astype("<f4")

    assert (pixels_from_binary(memoryview(shares.tobytes()), "FP32", shares.shape) == pixels).all()


@given(st.binary(min_size=16, max_size=16))
def test_any_bytes_are_shares_or_refused(data):
    with suppress(InvalidInput):
        pixels = pixels_from_binary(memoryview(data), "FP32", (1, 1, 2, 2))
        assert (np.rint(np.frombuffer(data, "<f4").astype(float) * 255) == pixels.ravel()).all()


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0xFF800000, 0x3F800001, 0x80000001])
def test_what_is_no_share_of_light_is_refused(bits):
    """NaNs that signal and that do not, infinity, the next above one, the next below zero."""
    data = memoryview(np.array([0, 0, bits, 0], "<u4").tobytes())

    with pytest.raises(InvalidInput, match="FP32"):
        pixels_from_binary(data, "FP32", (1, 1, 2, 2))


def test_binary_data_take_no_more_memory_than_their_pixels():
    shape = (8, 3, 224, 224)
    data = memoryview(bytes(binary_bytes("FP32", shape)))
    tracemalloc.start()
    try:
        pixels_from_binary(data, "FP32", shape)
        _, shares_bytes = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        pixels_from_binary(data[: binary_bytes("UINT8", shape)], "UINT8", shape)
        _, bytes_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert shares_bytes < binary_bytes("UINT8", shape) + 4_000_000
    assert bytes_bytes < 100_000
