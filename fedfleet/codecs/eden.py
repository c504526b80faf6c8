"""EDEN: a random rotation, the best levels for normal values, and one scale that removes the bias.

Vargaftik 2022, arXiv 2108.08842, algorithm 1; with one bit it is DRIVE (Vargaftik 2021, arXiv
2105.08339). We rotate in pieces of at most 2^15 elements, with two Hadamard passes.
"""

from __future__ import annotations

import itertools
import math
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
from fedfleet.codecs.hadamard import random_signs, rotate, rotate_back
from fedfleet.codecs.packing import pack, packed_bytes, unpack
from fedfleet.codecs.values import Read, spans
from fedfleet.types import Array, FloatVector

# The positive Lloyd-Max centroids of N(0, 1) by bits (Lloyd 1982; Max 1960, table I).
CENTROIDS = {
    1: (0.7978845608028654,),
    2: (0.4527800398860679, 1.5104176087114887),
    3: (0.24509416307340598, 0.7560052489539643, 1.3439092613750225, 2.151945669890335),
    4: (
        0.12839501671105813,
        0.38804823445328507,
        0.6567589957631145,
        0.9423402689122875,
        1.2562309480263467,
        1.6180460517130526,
        2.069016730231837,
        2.732588804065177,
    ),
}
# Mean squared error of those levels on N(0, 1).
DISTORTION = {1: 1 - 2 / math.pi, 2: 0.117482, 3: 0.034548, 4: 0.009501}
# A piece is not smaller: the rotation of few elements is far from a uniformly random one.
SMALLEST = 128
_SEED_BYTES = 8
_MAX_SCALE = MAX_ABS * 2.0**8


@dataclass(frozen=True, slots=True)
class Eden:
    """``bits`` per value.

    With x a piece, R the rotation and q the levels nearest to ``sqrt(d) R x / |x|``:
    ``decoded = R^-1 (S q)`` with ``S = |x|^2 / <q, R x>``: unbiased (Vargaftik 2022, theorem 2.1,
    for a uniformly random R; the Hadamard passes come close to it), expected squared error
    ``D / (1 - D) |x|^2`` for large d (lemma 2.2): .5708, .1331, .0358, .0096 for 1 to 4 bits. The
    stated bound adds ``4 / sqrt(d)`` of that for finite d. ``biased`` takes the scale of least
    error instead, ``<q, R x> / |q|^2``: error ``D |x|^2`` and never more than ``|x|^2``.
    """

    bits: int
    biased: bool = False
    has_exact_size: bool = True

    @property
    def is_unbiased(self) -> bool:
        return not self.biased

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("eden", {"bits": self.bits, "biased": float(self.biased)}),)

    def size(self, elements: int) -> int:
        whole, rest = divmod(elements, BLOCK)
        tail = sum(self._segment(padded) for _, _, padded in pieces(rest))
        return _SEED_BYTES + whole * self._segment(BLOCK) + tail

    def _segment(self, padded: int) -> int:
        return 4 + packed_bytes(padded, self.bits)

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        random = np.random.SFC64(seed)
        parts = [np.array([seed], "<u8").view(np.uint8)]
        for start, n, padded in pieces(values_P.size):
            piece = np.zeros(padded, np.float32)
            piece[:n] = values_P[start : start + n]
            scale, codes = self._quantise(piece, random_signs(random, padded))
            parts.append(np.array([scale], "<f4").view(np.uint8))
            parts.append(pack(codes, self.bits))
        return np.concatenate(parts).data

    def _quantise(self, piece: FloatVector, signs: Array) -> tuple[float, Array]:
        largest = float(np.abs(piece).max())
        check_magnitude(largest)
        if largest == 0:
            return 0.0, np.zeros(piece.size, np.uint8)
        # By a power of two, which is exact, so that no square leaves the range of float32.
        exponent = math.frexp(largest)[1]
        rotated = rotate(np.ldexp(piece, -exponent), signs)
        squares = square_norm(rotated)
        codes = self._codes(rotated * np.float32(math.sqrt(piece.size / squares)))
        levels = self._table().take(codes)
        agreement = float((levels * rotated).sum(dtype=np.float64))
        scale = agreement / square_norm(levels) if self.biased else squares / agreement
        return math.ldexp(scale, exponent), codes

    def _codes(self, normal: FloatVector) -> Array:
        """The number of the nearest level: the magnitude's, plus half the table for minus."""
        positive = CENTROIDS[self.bits]
        magnitudes = np.abs(normal)
        codes = (normal < 0).view(np.uint8) << (self.bits - 1)
        for low, high in itertools.pairwise(positive):
            codes += (magnitudes > np.float32((low + high) / 2)).view(np.uint8)
        return codes

    def _table(self) -> FloatVector:
        positive = np.array(CENTROIDS[self.bits], np.float32)
        return np.concatenate([positive, -positive])

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        random = np.random.SFC64(int(read(_SEED_BYTES).view("<u8")[0]))
        table = self._table()
        for start, n, padded in pieces(elements):
            scale = read(4).view("<f4").astype(np.float32)
            check_scales(scale, _MAX_SCALE)
            codes = unpack(read(packed_bytes(padded, self.bits)), padded, self.bits)
            levels = table.take(codes)
            levels *= scale[0]
            yield start, rotate_back(levels, random_signs(random, padded))[:n]

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        distortion = DISTORTION[self.bits]
        share = distortion if self.biased else distortion / (1 - distortion)
        positive = CENTROIDS[self.bits]
        expected = worst = 0.0
        for start, n, padded in pieces(values_P.size):
            squares = square_norm(values_P[start : start + n])
            expected += share * (1 + 4 / math.sqrt(padded)) * squares
            # <q, Rx> >= c_1 |Rx|_1 >= c_1 |x|_2 and |q|^2 <= c_last^2 d.
            ratio = padded * (positive[-1] / positive[0]) ** 2
            worst += squares * (1.0 if self.biased else ratio) * (1 + 2.0**-10)
        return ErrorBound(expected, worst)


def pieces(elements: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, length, length padded to a power of two): whole blocks, then ever smaller."""
    for start, n in spans(elements):
        end = start + n
        while start < end:
            size = min(max(1 << ((end - start).bit_length() - 1), SMALLEST), BLOCK)
            if end - start < 4 * SMALLEST:
                size = max(1 << (end - start - 1).bit_length(), SMALLEST)
            yield start, min(size, end - start), size
            start += size
