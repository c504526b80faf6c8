"""int8, int4, int2: evenly spaced levels between minus and plus the largest of each group.

The levels are those of QSGD (Alistarh 2017, arXiv 1610.02132, section 3.1) with the group's largest
magnitude in place of its Euclidean norm, which only lowers the error; zero is always a level.
"""

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

# Elements that share a scale.
GROUP = 256
# A scale is this much larger than it need be, so that no quotient rounds to beyond the last level;
# a decoder multiplies by the same scale, so it adds no bias.
_MARGIN = 1 + 2.0**-21
_SMALLEST = 2.0**-126
_DITHER = np.float32(2.0**-16)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Each value as one of ``2^bits - 1`` levels, ``s`` apart.

    Stochastic rounding goes up with the probability of the remainder (in steps of 2^-16, the only
    bias): the expected squared error per element is at most ``s^2 / 4`` and the error below ``s``.
    Nearest rounding is within ``s / 2``. With ``L = 2^(bits-1) - 1`` and ``M`` the group's largest
    magnitude, ``s = M / L`` (at least 2^-126). Alistarh 2017, lemma 3.1: per group of d elements
    the expected squared error is also at most ``min(d / L^2, sqrt(d) / L)`` of the squared norm.

    Args:
        by_scale: whether the codes of the whole groups of a block stand in the order of the
            groups' scales, which a receiver has before them. Where the largest elements of a
            vector are encoded, groups of like scale have codes of like frequency.
    """

    bits: int
    nearest: bool = False
    by_scale: bool = False
    has_exact_size: bool = True

    @property
    def is_unbiased(self) -> bool:
        return not self.nearest

    @property
    def steps(self) -> tuple[Step, ...]:
        numbers = {"group": GROUP, "stochastic": float(not self.nearest)}
        return (Step(f"int{self.bits}", numbers),)

    @property
    def levels(self) -> int:
        """Levels above zero."""
        return (1 << (self.bits - 1)) - 1

    def size(self, elements: int) -> int:
        whole, rest = divmod(elements, BLOCK)
        return whole * self._segment(BLOCK) + self._segment(rest)

    def _segment(self, n: int) -> int:
        return 4 * -(-n // GROUP) + packed_bytes(n, self.bits)

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        out = np.empty(self.size(values_P.size), np.uint8)
        random = np.random.SFC64(seed)
        padded = np.zeros(BLOCK, np.float32)
        scaled = np.empty((BLOCK // GROUP, GROUP), np.float32)
        dither = np.empty((BLOCK // GROUP, GROUP), np.float32)
        codes = np.empty((BLOCK // GROUP, GROUP), np.int8)
        place = 0
        for start, n in spans(values_P.size):
            rows = -(-n // GROUP)
            block_B = values_P[start : start + n]
            if n < rows * GROUP:
                padded[:n] = block_B
                block_B = padded[: rows * GROUP]
            grouped, part, code = block_B.reshape(rows, GROUP), scaled[:rows], codes[:rows]
            scales, inverse = self._scales(np.abs(grouped, out=part).max(axis=1))
            np.multiply(grouped, inverse[:, None], out=part)
            if self.nearest:
                np.rint(part, out=part)
            else:
                draws = random.random_raw(rows * GROUP // 4).view(np.uint16)
                drawn = draws.reshape(rows, GROUP)
                np.multiply(drawn, _DITHER, out=dither[:rows], dtype=np.float32)
                part += dither[:rows]
                np.floor(part, out=part)
            np.copyto(code, part, casting="unsafe")
            if self.by_scale:
                whole = n // GROUP
                code[:whole] = code[_order(scales[:whole])]
            end = place + self._segment(n)
            out[place : place + 4 * rows] = scales.astype("<f4", copy=False).view(np.uint8)
            out[place + 4 * rows : end] = self._pack(code.reshape(-1)[:n])
            place = end
        return out.data

    def _scales(self, largest: Array) -> tuple[Array, Array]:
        """The step of each group and its reciprocal; 0 and 0 for a group of zeros."""
        check_magnitude(float(largest.max()))
        scales = np.maximum(largest * np.float32(_MARGIN / self.levels), np.float32(_SMALLEST))
        inverse = np.float32(1.0) / scales
        zero = largest == 0
        scales[zero] = inverse[zero] = 0.0
        return scales, inverse

    def _pack(self, codes: Array) -> Array:
        if self.bits == 8:
            return codes.view(np.uint8)
        return pack((codes + np.int8(self.levels)).view(np.uint8), self.bits)

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        values = np.empty((BLOCK // GROUP, GROUP), np.float32)
        for start, n in spans(elements):
            rows = -(-n // GROUP)
            scales = read(4 * rows).view("<f4").astype(np.float32, copy=False)
            check_scales(scales, MAX_ABS)
            codes = unpack(read(packed_bytes(n, self.bits)), n, self.bits)
            flat = values.reshape(-1)
            if self.bits == 8:
                np.copyto(flat[:n], codes.view(np.int8))
            else:
                np.subtract(codes, np.float32(self.levels), out=flat[:n], dtype=np.float32)
            flat[n : rows * GROUP] = 0
            if self.by_scale:
                whole = n // GROUP
                values[_order(scales[:whole])] = values[:whole].copy()
            values[:rows] *= scales[:, None]
            yield start, flat[:n]

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        largest = (
            np.maximum.reduceat(np.abs(values_P), np.arange(0, values_P.size, GROUP))
            if (values_P.size)
            else values_P
        )
        counts = np.full(largest.size, GROUP)
        if values_P.size % GROUP:
            counts[-1] = values_P.size % GROUP
        steps = np.maximum(largest.astype(np.float64) * (_MARGIN / self.levels), _SMALLEST)
        squares = float((counts * steps**2 * (largest > 0)).sum())
        rounding = 2.0**-20 * square_norm(values_P)
        return ErrorBound(
            squares / 4 + rounding, (squares / 4 if self.nearest else squares) + rounding
        )


def _order(scales: Array) -> Array:
    """The groups from the smallest scale to the largest; of equal ones the first first."""
    return np.argsort(scales, kind="stable")
