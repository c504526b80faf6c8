"""The random rotation of EDEN: random signs and a Hadamard transform, twice.

Only additions, so every machine computes the same bits. Twice, because after one pass a vector
with few large elements takes few distinct values, far from the normal distribution that the
centroids are made for; the second pass mixes those (Ailon and Chazelle 2009; Yu 2016, arXiv
1610.09072, section 3 use two and three).
"""

from __future__ import annotations

import math

import numpy as np

from fedfleet.types import Array, FloatVector

ROUNDS = 2


def random_signs(random: np.random.SFC64, n: int) -> Array:
    """Sign bits for ``ROUNDS`` passes over n elements: uint32, 0 or 2^31, shape (ROUNDS, n)."""
    words = -(-ROUNDS * n // 64)
    drawn = np.asarray(random.random_raw(words), "<u8").view(np.uint8)
    bits = np.unpackbits(drawn, count=ROUNDS * n).reshape(ROUNDS, n)
    signs: Array = bits.astype(np.uint32) << np.uint32(31)
    return signs


def rotate(values: FloatVector, signs: Array) -> FloatVector:
    """Return the rotated vector; n must be a power of two. Keeps the Euclidean norm."""
    for bits in signs:
        values = transform((values.view(np.uint32) ^ bits).view(np.float32))
    return values


def rotate_back(values: FloatVector, signs: Array) -> FloatVector:
    """Undo ``rotate`` with the same signs."""
    for bits in signs[::-1]:
        values = (transform(values).view(np.uint32) ^ bits).view(np.float32)
    return values


def transform(values: FloatVector) -> FloatVector:
    """The orthonormal Walsh-Hadamard transform (its own inverse) of n = 2^m values, as a copy."""
    m = values.size.bit_length() - 1
    rows = 1 << (m // 2)
    # H_n x is H_rows X H_columns: each half runs over long contiguous rows.
    half = _columns(np.array(values.reshape(rows, -1)))
    whole = _columns(np.ascontiguousarray(half.T))
    flat: FloatVector = np.ascontiguousarray(whole.T).reshape(-1)
    flat *= np.float32(1 / math.sqrt(values.size))
    return flat


def _columns(grid: Array) -> Array:
    """Transform each column of a grid; the argument is used as scratch."""
    other = np.empty_like(grid)
    h = 1
    while h < grid.shape[0]:
        given = grid.reshape(-1, 2, h * grid.shape[1])
        taken = other.reshape(-1, 2, h * grid.shape[1])
        np.add(given[:, 0], given[:, 1], out=taken[:, 0])
        np.subtract(given[:, 0], given[:, 1], out=taken[:, 1])
        grid, other = other, grid
        h *= 2
    return grid
