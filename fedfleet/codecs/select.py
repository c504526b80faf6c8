"""Finds the largest elements of a long vector without sorting it."""

from __future__ import annotations

import numpy as np

from fedfleet.codecs.encoded import check_magnitude
from fedfleet.codecs.values import spans
from fedfleet.types import Array, FloatVector

_SAMPLE = 1 << 15
# So many more than asked for are let through, that a sample which is a little off still lets
# enough through (a sample of 2^15 is off by 6 % at a ratio of 1 %, one time in three).
_SLACK = 1.3


def largest(values_P: FloatVector, count: int) -> Array:
    """Return the positions of the ``count`` largest magnitudes: int64, increasing.

    Of equal magnitudes the lower positions are taken, so the answer depends on the values alone.

    Raises:
        UpdateNotFinite, UpdateOutOfRange: a value that cannot be compared or encoded.
    """
    guess = _guess(values_P, count)
    found = _above(values_P, guess, 4 * count) if guess > 0 else None
    if found is None or found[0].size < count:
        return _partitioned(values_P, count)
    positions, magnitudes = found
    return positions[_keep(magnitudes, count)]


def _guess(values_P: FloatVector, count: int) -> float:
    """A magnitude that a few more than ``count`` elements pass, from a sample; 0 for no guess."""
    if values_P.size < 4 * _SAMPLE or 3 * count > values_P.size:
        return 0.0
    # An odd stride, so that no channel or block of a power of two is left out.
    sample = np.abs(values_P[:: values_P.size // _SAMPLE | 1])
    wanted = int(_SLACK * sample.size * count / values_P.size) + 8
    return float(np.partition(sample, sample.size - wanted)[sample.size - wanted])


def _above(values_P: FloatVector, threshold: float, most: int) -> tuple[Array, Array] | None:
    """Positions and magnitudes of all elements from the threshold on; None if more than most."""
    positions, magnitudes = [], []
    scratch = np.empty(min(values_P.size, 1 << 15), np.float32)
    found = 0
    for start, n in spans(values_P.size):
        block_B = np.abs(values_P[start : start + n], out=scratch[:n])
        top = float(block_B.max())
        check_magnitude(top)
        if top < threshold:
            continue
        place = np.flatnonzero(block_B >= threshold)
        magnitudes.append(block_B[place])
        positions.append(place + start)
        found += place.size
        if found > most:
            return None
    return np.concatenate(positions), np.concatenate(magnitudes)


def _partitioned(values_P: FloatVector, count: int) -> Array:
    """The same for short vectors, and for those whose sample was misleading."""
    magnitudes = np.abs(values_P)
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
