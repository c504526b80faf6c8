from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs.eden import CENTROIDS, DISTORTION, SMALLEST, Eden, pieces
from fedfleet.codecs.encoded import BLOCK, square_norm
from fedfleet.codecs.hadamard import random_signs, rotate, rotate_back, transform
from fedfleet.codecs.values import decode_dense
from fedfleet.types import FloatVector

D = 1 << 14


def decoded(codec: Eden, values: FloatVector, seed: int) -> FloatVector:
    return decode_dense(codec, memoryview(codec.encode(values, seed)), values.size)


def relative_error(codec: Eden, values: FloatVector, seeds: int) -> float:
    errors = [square_norm(decoded(codec, values, s) - values) for s in range(seeds)]
    return float(np.mean(errors)) / square_norm(values)


@pytest.mark.parametrize(("bits", "want"), [(1, 0.5708), (2, 0.1331), (3, 0.0358), (4, 0.0096)])
def test_eden_error_is_that_of_the_paper(bits: int, want: float) -> None:
    values = np.random.default_rng(bits).lognormal(size=D).astype(np.float32)

    assert relative_error(Eden(bits), values, 100) == pytest.approx(want, rel=0.02)


def test_drive_error_with_the_biased_scale_is_that_of_the_paper() -> None:
    values = np.random.default_rng(0).normal(size=D).astype(np.float32)

    assert relative_error(Eden(1, biased=True), values, 100) == pytest.approx(0.3634, rel=0.02)


def test_eden_error_shrinks_with_the_number_of_workers() -> None:
    values = np.random.default_rng(0).normal(size=D).astype(np.float32)
    mean = sum(decoded(Eden(1), values, s).astype(np.float64) for s in range(25)) / 25

    error = square_norm(mean - values) / square_norm(values)
    assert error == pytest.approx(0.5708 / 25, rel=0.05)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_centroids_are_the_best_levels_for_normal_values(bits: int) -> None:
    levels = np.array([0.0, *CENTROIDS[bits]])
    edges = [0.0, *((levels[1:-1] + levels[2:]) / 2), math.inf]

    def upper(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    squares = 0.0
    for low, high, level in zip(edges, edges[1:], CENTROIDS[bits], strict=False):
        mass = upper(low) - upper(high)
        assert (density(low) - density(high)) / mass == pytest.approx(level, rel=1e-6)
        squares += 2 * mass * level**2
    assert 1 - squares == pytest.approx(DISTORTION[bits], rel=1e-4)


@given(st.integers(0, 11), st.integers(0, 2**32))
@settings(deadline=None)
def test_rotation_keeps_the_norm_and_is_undone(power: int, seed: int) -> None:
    n = 1 << power
    values = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    signs = random_signs(np.random.SFC64(seed), n)

    rotated = rotate(values, signs)

    assert square_norm(rotated) == pytest.approx(square_norm(values), rel=1e-5)
    np.testing.assert_allclose(rotate_back(rotated, signs), values, atol=1e-5)


def test_transform_is_the_walsh_hadamard_matrix() -> None:
    matrix = np.array([[1.0]])
    for _ in range(5):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])

    got = np.stack([transform(row) for row in np.eye(32, dtype=np.float32)])

    np.testing.assert_allclose(got, matrix / math.sqrt(32), rtol=1e-6)


@given(st.integers(0, 3 * BLOCK))
def test_pieces_cover_every_element_once_and_pad_little(elements: int) -> None:
    at = padding = 0
    for start, n, padded in pieces(elements):
        assert start == at
        assert SMALLEST <= padded <= BLOCK
        assert padded & (padded - 1) == 0
        assert 0 < n <= padded
        at += n
        padding += padded - n
    assert at == elements
    assert padding < 2 * SMALLEST


def test_eden_of_zeros_is_zeros() -> None:
    assert not decoded(Eden(2), np.zeros(500, np.float32), 3).any()
