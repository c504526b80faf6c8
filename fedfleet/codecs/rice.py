"""Positions of the kept elements as Golomb-Rice codes of the gaps between them.

Golomb 1966; Rice 1979: a gap g costs ``b + 1 + (g >> b)`` bits. Each group of gaps has its own b
where that is cheaper than one for all: layers that change much lie closer. Where more than half of
the elements are kept, the positions of the others are coded. For a mask drawn at random the cost
is within 5 % of its entropy (and a few bytes). The quotients (in unary) and each bit of the
remainders travel one after the other, so that numpy codes all gaps at once.
"""

from __future__ import annotations

import numpy as np

from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array

# Gaps that share a parameter.
GROUP = 128
MAX_PARAMETER = 31
_BY_GROUP = 0xFF


def encode(positions_K: Array, elements: int) -> bytes:
    """Encode int64 positions that increase strictly within ``range(elements)``."""
    if 2 * positions_K.size > elements:
        absent = np.ones(elements, bool)
        absent[positions_K] = False
        positions_K = np.flatnonzero(absent)
    if not positions_K.size:
        return b""
    gaps = np.diff(positions_K, prepend=-1) - 1
    head, parameters = _parameters(gaps)
    ends = np.cumsum((gaps >> parameters) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 1
    planes = [
        np.packbits(((bits >> plane) & 1).astype(np.uint8))
        for plane, bits in _planes(gaps, parameters)
    ]
    return b"".join([head, *(plane.tobytes() for plane in planes), np.packbits(unary).tobytes()])


def decode(data: memoryview, count: int, elements: int) -> Array:
    """Decode ``count`` positions: int64, strictly increasing, all within ``range(elements)``.

    Raises:
        UpdateInvalid: the bytes are not what ``encode`` writes for so many positions.
    """
    if len(data) > max_bytes(count, elements):
        raise UpdateInvalid(f"{len(data)} bytes of positions for {count} of {elements} elements")
    if 2 * count > elements:
        absent = _decode_few(data, elements - count, elements)
        present = np.ones(elements, bool)
        present[absent] = False
        return np.flatnonzero(present)
    return _decode_few(data, count, elements)


def max_bytes(count: int, elements: int) -> int:
    """The most bytes that ``encode`` writes: those of the best single parameter."""
    count = min(count, elements - count)
    if not count:
        return 0
    bits = min(count * (b + 1) + (elements >> b) for b in range(MAX_PARAMETER + 1))
    # Each plane and the unary part end with up to seven unused bits.
    return -(-bits // 8) + MAX_PARAMETER + 2


def _parameters(gaps: Array) -> tuple[bytes, Array]:
    """The head and the parameter of each gap (or one for all), at the least number of bits."""
    starts = np.arange(0, gaps.size, GROUP)
    counts = np.minimum(GROUP, gaps.size - starts)
    means = np.add.reduceat(gaps, starts) // counts
    low = max(0, int(means.min()).bit_length() - 2)
    high = min(MAX_PARAMETER, int(means.max()).bit_length() + 1)
    bits = np.stack(
        [np.add.reduceat(gaps >> b, starts) + (b + 1) * counts for b in range(low, high + 1)]
    )
    best = bits.argmin(axis=0)
    one = int(bits.sum(axis=1).argmin())
    saved = int(bits[one].sum() - bits[best, np.arange(starts.size)].sum())
    # A plane more or less may cost a byte each; that is not worth a search.
    if saved <= 8 * starts.size:
        return bytes([one + low]), np.array([one + low])
    chosen = best + low
    return bytes([_BY_GROUP]) + chosen.astype(np.uint8).tobytes(), np.repeat(chosen, counts)


def _planes(gaps: Array, parameters: Array) -> list[tuple[int, Array]]:
    """For each bit of the remainders, the gaps that have it."""
    one = parameters.size == 1
    return [(i, gaps if one else gaps[parameters > i]) for i in range(int(parameters.max()))]


def _decode_few(data: memoryview, count: int, elements: int) -> Array:
    if not count:
        if data:
            raise UpdateInvalid(f"{len(data)} bytes of positions where none are needed")
        return np.zeros(0, np.int64)
    if 8 * len(data) < count:  # each takes a bit at least; checked before anything is allocated
        raise UpdateInvalid(f"{len(data)} bytes for {count} positions")
    received = np.frombuffer(data, np.uint8)
    parameters, place = _read_parameters(received, count)
    gaps = np.zeros(count, np.int64)
    for plane in range(int(parameters.max())):
        place = _read_plane(received, place, gaps, plane, parameters)
    quotients = _read_unary(received[place:], count)
    total = float((np.ldexp(quotients.astype(np.float64), parameters) + gaps + 1).sum())
    if total > elements:
        raise UpdateInvalid(f"a position past the last of {elements} elements")
    gaps += quotients << parameters
    gaps += 1
    return np.cumsum(gaps) - 1


def _read_parameters(received: Array, count: int) -> tuple[Array, int]:
    groups = -(-count // GROUP)
    by_group = received[:1].tobytes() == bytes([_BY_GROUP])
    found = received[1 : 1 + groups] if by_group else received[:1]
    if found.size != (groups if by_group else 1) or found.max() > MAX_PARAMETER:
        raise UpdateInvalid("positions without a valid parameter")
    if not by_group:
        return found.astype(np.int64), 1
    return np.repeat(found.astype(np.int64), GROUP)[:count], 1 + groups


def _read_plane(received: Array, place: int, gaps: Array, plane: int, parameters: Array) -> int:
    """Add one bit to the remainders that have it; return where the next plane begins."""
    having = None if parameters.size == 1 else parameters > plane
    n = gaps.size if having is None else int(np.count_nonzero(having))
    end = place + -(-n // 8)
    if end > received.size:
        raise UpdateInvalid("positions end too early")
    bits = np.unpackbits(received[place:end], count=n).astype(np.int64) << plane
    if having is None:
        gaps += bits
    else:
        gaps[having] += bits
    return end


def _read_unary(received: Array, count: int) -> Array:
    bits = np.unpackbits(received)
    ends = np.flatnonzero(bits)
    if ends.size != count or bits.size - int(ends[-1]) > 8:
        raise UpdateInvalid(f"the bytes hold {ends.size} positions, expected {count}")
    return np.diff(ends, prepend=-1) - 1
