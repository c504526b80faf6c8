"""What ``stc`` sends of the values that it keeps: their signs, and one mean magnitude."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedfleet.codecs.encoded import (
    MAX_ABS,
    ErrorBound,
    Step,
    check_magnitude,
    check_scales,
    square_norm,
)
from fedfleet.codecs.packing import pack, packed_bytes, unpack
from fedfleet.codecs.values import Read, spans
from fedfleet.types import FloatVector

_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Ternary:
    """The values of Sattler 2019, arXiv 1903.02891, algorithm 1: ``m sign(x)``, m the mean of |x|.

    The squared error of n values is ``|x|_2^2 - n m^2``. No step of its own: ``stc`` names it.
    """

    is_unbiased: bool = False
    has_exact_size: bool = True

    @property
    def steps(self) -> tuple[Step, ...]:
        return ()

    def size(self, elements: int) -> int:
        return _SCALE_BYTES + sum(packed_bytes(n, 1) for _, n in spans(elements))

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        mean = _mean(values_P)
        check_magnitude(mean)
        parts = [np.array([mean], "<f4").view(np.uint8)]
        for start, n in spans(values_P.size):
            parts.append(pack((values_P[start : start + n] >= 0).view(np.uint8), 1))
        return np.concatenate(parts).data

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        scale = read(_SCALE_BYTES).view("<f4").astype(np.float32)
        check_scales(scale, MAX_ABS)
        for start, n in spans(elements):
            yield start, np.where(unpack(read(packed_bytes(n, 1)), n, 1), scale, -scale)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        squares = square_norm(values_P)
        gain = values_P.size * _mean(values_P) ** 2
        bound = max(squares - gain, 0.0) + 2.0**-20 * squares
        return ErrorBound(bound, bound)


def _mean(values_P: FloatVector) -> float:
    return float(np.abs(values_P).mean(dtype=np.float64)) if values_P.size else 0.0
