"""Codecs that keep the largest elements only: their positions, then their values.

A payload is the number of bytes of the positions (8 bytes), the positions (``rice``), and the
values. Values are deflated with Huffman codes alone where that makes them smaller: the largest
elements crowd near the threshold, so their codes are far from equally likely.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fedfleet.codecs import rice, select
from fedfleet.codecs.encoded import MAX_ABS, ErrorBound, Step, check_scales, square_norm
from fedfleet.codecs.packing import pack, packed_bytes, unpack
from fedfleet.codecs.values import ValueCodec, decode_dense, uint8
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, FloatVector

_HEAD_BYTES = 8
_RAW, _DEFLATED = 0, 1


def kept(ratio: float, elements: int) -> int:
    """Exactly ``ceil(ratio * elements)``, the ratio taken as the decimal that it is written as."""
    return math.ceil(Fraction(repr(ratio)) * elements)


@dataclass(frozen=True, slots=True)
class TopK:
    """The ``ceil(ratio * P)`` largest magnitudes, then a codec for their values.

    The squared error without that codec is at most ``(1 - K / P) |x|^2`` (Stich 2018, arXiv
    1809.07599, lemma A.1); the codec adds its own on the kept values. Biased.
    """

    ratio: float
    values: ValueCodec
    is_unbiased: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        return Step("topk", {"ratio": self.ratio}), self.values.step

    def max_size(self, elements: int) -> int:
        count = kept(self.ratio, elements)
        return _HEAD_BYTES + rice.max_bytes(count, elements) + 1 + self.values.size(count)

    def encode(self, values_P: FloatVector, seed: int) -> tuple[bytes, Array]:
        """Return the bytes and the positions kept."""
        positions_K = select.largest(values_P, kept(self.ratio, values_P.size))
        tail = _deflate(bytes(self.values.encode(values_P[positions_K], seed)))
        return _join(rice.encode(positions_K, values_P.size), tail), positions_K

    def values_of(self, data: memoryview, elements: int) -> FloatVector:
        """Decode the kept values only, in the order of their positions."""
        count = kept(self.ratio, elements)
        return decode_dense(self.values, _inflate(_tail(data), self.values.size(count)), count)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        count = kept(self.ratio, values_P.size)
        inner = self.values.error_bound(values_P[select.largest(values_P, count)])
        dropped = (1 - count / max(values_P.size, 1)) * square_norm(values_P)
        return ErrorBound(dropped + inner.expected, dropped + inner.worst)


@dataclass(frozen=True, slots=True)
class SparseTernary:
    """The ``ceil(ratio * P)`` largest magnitudes, each as its sign times their mean ``m``.

    Sattler 2019, arXiv 1903.02891, algorithm 1 (ties do not send more, unlike there). The squared
    error is ``|x|^2 - K m^2``. Biased.
    """

    ratio: float
    is_unbiased: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step("stc", {"ratio": self.ratio}),)

    def max_size(self, elements: int) -> int:
        count = kept(self.ratio, elements)
        return _HEAD_BYTES + rice.max_bytes(count, elements) + _ternary_bytes(count)

    def encode(self, values_P: FloatVector, seed: int) -> tuple[bytes, Array]:
        """Return the bytes and the positions kept."""
        positions_K = select.largest(values_P, kept(self.ratio, values_P.size))
        values_K = values_P[positions_K]
        tail = np.array([_mean(values_K)], "<f4").tobytes()
        tail += pack((values_K >= 0).view(np.uint8), 1).tobytes()
        return _join(rice.encode(positions_K, values_P.size), tail), positions_K

    def values_of(self, data: memoryview, elements: int) -> FloatVector:
        """Decode the kept values only, in the order of their positions."""
        count = kept(self.ratio, elements)
        tail = _tail(data)
        if len(tail) != _ternary_bytes(count):
            raise UpdateInvalid(
                f"{len(tail)} bytes of stc for {count} values, expected {_ternary_bytes(count)}"
            )
        received = uint8(tail)
        scale = received[:4].view("<f4").astype(np.float32)
        check_scales(scale, MAX_ABS)
        return np.where(unpack(received[4:], count, 1), scale, -scale)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        count = kept(self.ratio, values_P.size)
        squares = square_norm(values_P)
        mean = _mean(values_P[select.largest(values_P, count)])
        bound = max(squares - count * mean**2, 0.0) + 2.0**-20 * squares
        return ErrorBound(bound, bound)


Sparsifier = TopK | SparseTernary


def positions_of(data: memoryview, count: int, elements: int) -> Array:
    """Decode the positions: int64, increasing, shape (count,)."""
    _tail(data)
    end = _HEAD_BYTES + int(uint8(data[:_HEAD_BYTES]).view("<u8")[0])
    return rice.decode(data[_HEAD_BYTES:end], count, elements)


def _join(positions: bytes, tail: bytes) -> bytes:
    return len(positions).to_bytes(_HEAD_BYTES, "little") + positions + tail


def _tail(data: memoryview) -> memoryview:
    """What follows the positions."""
    end = _HEAD_BYTES + int.from_bytes(data[:_HEAD_BYTES], "little")
    if len(data) < _HEAD_BYTES or end > len(data):
        raise UpdateInvalid(f"{len(data)} bytes, too few for the positions that they announce")
    return data[end:]


def _deflate(values: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    packed = packer.compress(values) + packer.flush()
    if len(packed) < len(values):
        return bytes([_DEFLATED]) + packed
    return bytes([_RAW]) + values


def _inflate(tail: memoryview, size: int) -> memoryview:
    """Undo ``_deflate``; never makes more than ``size`` bytes and one.

    Raises:
        UpdateInvalid: damaged, or another size.
    """
    if tail[:1] == bytes([_RAW]):
        return tail[1:]
    if tail[:1] != bytes([_DEFLATED]):
        raise UpdateInvalid("values that are neither plain nor deflated")
    unpacker = zlib.decompressobj(-15)
    try:
        values = unpacker.decompress(tail[1:], size + 1)
    except zlib.error as error:
        raise UpdateInvalid("deflated values that are damaged") from error
    if len(values) != size or not unpacker.eof or unpacker.unused_data:
        raise UpdateInvalid(f"deflated values that do not come to {size} bytes")
    return memoryview(values)


def _ternary_bytes(count: int) -> int:
    return 4 + packed_bytes(count, 1)


def _mean(values_K: FloatVector) -> float:
    return float(np.abs(values_K).mean(dtype=np.float64)) if values_K.size else 0.0
