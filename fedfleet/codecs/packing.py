"""Packs codes of 1 to 4 bits into bytes.

Lane after lane instead of neighbour beside neighbour: byte i holds codes i, i + m, i + 2m, ...
where m is the number of bytes, so that packing works on long contiguous runs. Three bits travel as
two and one.
"""

from __future__ import annotations

import numpy as np

from fedfleet.types import Array


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes ``count`` codes need."""
    if bits == 3:
        return packed_bytes(count, 2) + packed_bytes(count, 1)
    return -(-count * bits // 8)


def pack(codes: Array, bits: int) -> Array:
    """Pack uint8 codes below ``2^bits``, shape (n,), into uint8, shape (packed_bytes,)."""
    if bits == 8:
        return codes
    if bits == 3:
        return np.concatenate([pack(codes & 3, 2), pack(codes >> 2, 1)])
    m = packed_bytes(codes.size, bits)
    packed = np.zeros(m, np.uint8)
    for lane in range(8 // bits):
        part = codes[lane * m : (lane + 1) * m]
        packed[: part.size] |= part << (bits * lane)
    return packed


def unpack(packed: Array, count: int, bits: int) -> Array:
    """Unpack ``count`` codes: uint8, shape (count,)."""
    if bits == 8:
        return packed
    if bits == 3:
        low = packed_bytes(count, 2)
        high: Array = unpack(packed[low:], count, 1) << 2
        return unpack(packed[:low], count, 2) | high
    codes: Array = np.empty(count, np.uint8)
    m = packed.size
    mask = (1 << bits) - 1
    for lane in range(8 // bits):
        part = codes[lane * m : (lane + 1) * m]
        np.bitwise_and(packed[: part.size] >> (bits * lane), mask, out=part)
    return codes
