"""Codecs that store each value in a format of its own: float32 as it is, float16, bfloat16."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedfleet.codecs import identity
from fedfleet.codecs.encoded import ErrorBound, Step, check_magnitude, square_norm
from fedfleet.codecs.values import Read, spans
from fedfleet.errors import UpdateNotFinite, UpdateOutOfRange
from fedfleet.types import FloatVector

FLOAT16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class Identity:
    """The float32 vector itself, NaN and infinity too. Error 0."""

    is_unbiased: bool = True
    has_exact_size: bool = True

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("identity"),)

    def size(self, elements: int) -> int:
        return 4 * elements

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        return identity.encode(values_P) if values_P.size else b""

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        for start, n in spans(elements):
            yield start, read(4 * n).view("<f4").astype(np.float32, copy=False)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        return ErrorBound(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Float16:
    """IEEE 754 binary16, rounded to nearest, ties to even.

    Error per element: at most 2^-11 of its magnitude, or 2^-25 where that is more (IEEE 754-2019,
    section 4.3.1: half a unit in the last place). Values beyond 65504 are refused.
    """

    is_unbiased: bool = False
    has_exact_size: bool = True

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("float16"),)

    def size(self, elements: int) -> int:
        return 2 * elements

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        largest = float(np.abs(values_P).max(initial=0.0))
        check_magnitude(largest)
        if largest > FLOAT16_MAX:
            raise UpdateOutOfRange(
                f"the vector holds the value {largest:g}, float16 ends at {FLOAT16_MAX:g}; "
                "choose bfloat16"
            )
        return values_P.astype("<f2").tobytes()

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        for start, n in spans(elements):
            yield start, _finite(read(2 * n).view("<f2").astype(np.float32), "float16")

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        error_P = np.maximum(np.abs(values_P, dtype=np.float64) * 2.0**-11, 2.0**-25)
        bound = square_norm(error_P)
        return ErrorBound(bound, bound)


@dataclass(frozen=True, slots=True)
class BFloat16:
    """The upper half of a float32, rounded to nearest, ties to even.

    Error per element: at most 2^-8 of its magnitude, or 2^-134 where that is more (8 bits of
    significand; half a unit in the last place).
    """

    is_unbiased: bool = False
    has_exact_size: bool = True

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("bfloat16"),)

    def size(self, elements: int) -> int:
        return 2 * elements

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        halves_P = np.empty(values_P.size, "<u2")
        for start, n in spans(values_P.size):
            block_B = values_P[start : start + n]
            check_magnitude(float(np.abs(block_B).max()))
            bits_B = block_B.view(np.uint32)
            # Adds just under half of the last place kept, and one more where that place is odd.
            halves_P[start : start + n] = (bits_B + (0x7FFF + ((bits_B >> 16) & 1))) >> 16
        return halves_P.tobytes()

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        for start, n in spans(elements):
            bits_B = read(2 * n).view("<u2").astype(np.uint32) << 16
            yield start, _finite(bits_B.view(np.float32), "bfloat16")

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        error_P = np.maximum(np.abs(values_P, dtype=np.float64) * 2.0**-8, 2.0**-134)
        bound = square_norm(error_P)
        return ErrorBound(bound, bound)


def _finite(values_B: FloatVector, name: str) -> FloatVector:
    if not math.isfinite(float(values_B.max()) - float(values_B.min())):
        raise UpdateNotFinite(f"the {name} vector holds NaN or infinity")
    return values_B
