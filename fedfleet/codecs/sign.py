"""One bit per value: its sign, times the mean magnitude of its group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedfleet.codecs.encoded import (
    BLOCK,
    MAX_ABS,
    ErrorBound,
    Step,
    check_magnitude,
    check_scales,
    square_norm,
)
from fedfleet.codecs.packing import pack, packed_bytes, unpack
from fedfleet.codecs.values import Read, spans
from fedfleet.types import Array, FloatVector

GROUP = 1024


@dataclass(frozen=True, slots=True)
class Sign:
    """``C(p) = (|p|_1 / d) sign(p)`` per group of d elements; sign(0) is plus.

    Karimireddy 2019, arXiv 1901.09847, section 4 (scaled sign): the squared error is
    ``|p|_2^2 - |p|_1^2 / d``, so it always shrinks; biased, made for error feedback. We scale by
    group instead of by layer.
    """

    is_unbiased: bool = False
    has_exact_size: bool = True

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("sign", {"group": GROUP}),)

    def size(self, elements: int) -> int:
        whole, rest = divmod(elements, BLOCK)
        return whole * _segment(BLOCK) + _segment(rest)

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        parts = []
        for start, n in spans(values_P.size):
            block_B = values_P[start : start + n]
            magnitudes = np.abs(block_B)
            check_magnitude(float(magnitudes.max()))
            parts.append(_means(magnitudes).astype("<f4").view(np.uint8))
            parts.append(pack((block_B >= 0).view(np.uint8), 1))
        return np.concatenate(parts).data if parts else b""

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        for start, n in spans(elements):
            scales = read(4 * -(-n // GROUP)).view("<f4").astype(np.float32)
            check_scales(scales, MAX_ABS)
            signs_B = unpack(read(packed_bytes(n, 1)), n, 1).astype(np.float32)
            signs_B *= 2
            signs_B -= 1
            signs_B *= np.repeat(scales, GROUP)[:n]
            yield start, signs_B

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        squares = square_norm(values_P)
        gain = 0.0
        for start, n in spans(values_P.size):
            means = _means(np.abs(values_P[start : start + n]))
            counts = np.minimum(GROUP, n - np.arange(0, n, GROUP))
            gain += float((counts * means**2).sum())
        bound = max(squares - gain, 0.0) + 2.0**-20 * squares
        return ErrorBound(bound, bound)


def _segment(n: int) -> int:
    return 4 * -(-n // GROUP) + packed_bytes(n, 1)


def _means(magnitudes: FloatVector) -> Array:
    """Mean of each group, float64: a float32 sum would lose small values beside large ones."""
    starts = np.arange(0, magnitudes.size, GROUP)
    sums = np.add.reduceat(magnitudes, starts, dtype=np.float64)
    return sums / np.minimum(GROUP, magnitudes.size - starts)
