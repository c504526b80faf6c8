"""Finds the largest elements of a long vector without sorting it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet.codecs.encoded import BLOCK, check_magnitude
from fedfleet.codecs.values import spans
from fedfleet.types import Array, FloatVector

_SAMPLE = 1 << 15
# So many more than asked for are let through, that a sample which is a little off still lets
# enough through (a sample of 2^15 is off by 6 % at a ratio of 1 %, one time in three).
_SLACK = 1.3


def largest(parts: Sequence[FloatVector], count: int) -> Array:
    """Return the positions of the ``count`` largest magnitudes: int64, increasing.

    Of equal magnitudes the lower positions are taken, so the answer depends on the values alone.

    Args:
        parts: the vector, or views of its parts in order; positions count through them.

    Raises:
        UpdateNotFinite, UpdateOutOfRange: a value that cannot be compared or encoded.
    """
    guess = _guess(parts, count)
    found = _above(parts, guess, 4 * count) if guess > 0 else None
    if found is None or found[0].size < count:
        return _partitioned(parts, count)
    positions, magnitudes = found
    return positions[_keep(magnitudes, count)]


def _guess(parts: Sequence[FloatVector], count: int) -> float:
    """A magnitude that a few more than ``count`` elements pass, from a sample; 0 for no guess."""
    size = sum(part.size for part in parts)
    if size < 4 * _SAMPLE or 3 * count > size:
        return 0.0
    # An odd stride, so that no channel or block of a power of two is left out.
    stride = size // _SAMPLE | 1
    sample = np.abs(np.concatenate([part[::stride] for part in parts]))
    wanted = int(_SLACK * sample.size * count / size) + 8
    return float(np.partition(sample, sample.size - wanted)[sample.size - wanted])


def _above(parts: Sequence[FloatVector], threshold: float, most: int) -> tuple[Array, Array] | None:
    """Positions and magnitudes of all elements from the threshold on; None if more than most."""
    positions, magnitudes = [], []
    scratch = np.empty(BLOCK, np.float32)
    found = before = 0
    for part in parts:
        for start, n in spans(part.size):
            block_B = np.abs(part[start : start + n], out=scratch[:n])
            top = float(block_B.max())
            check_magnitude(top)
            if top < threshold:
                continue
            place = np.flatnonzero(block_B >= threshold)
            magnitudes.append(block_B[place])
            positions.append(place + (before + start))
            found += place.size
            if found > most:
                return None
        before += part.size
    return np.concatenate(positions), np.concatenate(magnitudes)


def _partitioned(parts: Sequence[FloatVector], count: int) -> Array:
    """The same for short vectors, and for those whose sample was misleading."""
    magnitudes = np.abs(np.concatenate(parts))
    check_magnitude(float(magnitudes.max(initial=0.0)))
    return np.flatnonzero(_keep(magnitudes, count))


def _keep(magnitudes: Array, count: int) -> Array:
    """Which are kept: bool, exactly ``count`` of them."""
    if not count:
        return np.zeros(magnitudes.size, bool)
    place = magnitudes.size - count
    least = np.partition(magnitudes, place)[place]
    keep: Array = magnitudes >= least
    surplus = int(np.count_nonzero(keep)) - count
    if surplus:
        keep[np.flatnonzero(magnitudes == least)[-surplus:]] = False
    return keep
