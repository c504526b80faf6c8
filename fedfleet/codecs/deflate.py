"""The last, lossless step of a chain: Huffman codes for what a codec of values wrote."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedfleet.codecs.encoded import ErrorBound, Step
from fedfleet.codecs.values import Read, ValueCodec, spans
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, FloatVector

_LENGTH_BYTES = 4
# zlib makes a new table of codes every 2^(level + 6) bytes.
_MEM_LEVEL = 8
_ADAPTIVE_MEM_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Deflate:
    """Another codec's header as it is, then its segments, each deflated (RFC 1951) by itself.

    A segment is its length (4 bytes) and as many bytes: deflated with Huffman codes alone if they
    are fewer than the plain segment, else the plain segment. Repeated strings are not looked for:
    codes of noise have none. So a byte costs a bit at least, and a receiver refuses what would
    become more than eight times as long. Changes no value.

    Args:
        is_adaptive: whether codes change along a segment, as frequencies do where groups stand in
            the order of their scales; a receiver need not know.
    """

    inner: ValueCodec
    is_adaptive: bool = False
    has_exact_size: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        return (*self.inner.steps, Step("deflate"))

    @property
    def is_unbiased(self) -> bool:
        return self.inner.is_unbiased

    def size(self, elements: int) -> int:
        return self.inner.size(elements) + _LENGTH_BYTES * sum(1 for _ in spans(elements))

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        plain = memoryview(self.inner.encode(values_P, seed))
        place = self.inner.size(0)
        parts: list[bytes | memoryview] = [plain[:place]]
        for size in self._segments(values_P.size):
            segment = self._shorter(plain[place : place + size])
            parts += [len(segment).to_bytes(_LENGTH_BYTES, "little"), segment]
            place += size
        return b"".join(parts)

    def _shorter(self, plain: memoryview) -> bytes | memoryview:
        level = _ADAPTIVE_MEM_LEVEL if self.is_adaptive else _MEM_LEVEL
        packer = zlib.compressobj(1, zlib.DEFLATED, -15, level, zlib.Z_HUFFMAN_ONLY)
        packed = packer.compress(plain) + packer.flush()
        return packed if len(packed) < len(plain) else plain

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        plain = _Inflating(read, self.inner.size(0), self._segments(elements))
        return self.inner.blocks(plain.take, elements)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        return self.inner.error_bound(values_P)

    def _segments(self, elements: int) -> Iterator[int]:
        """The plain size of each segment."""
        head = self.inner.size(0)
        for _, n in spans(elements):
            yield self.inner.size(n) - head


class _Inflating:
    """Gives the plain bytes of a payload, with one segment of them in memory at a time."""

    def __init__(self, read: Read, head_bytes: int, sizes: Iterator[int]) -> None:
        self._read = read
        self._sizes = sizes
        self._plain = read(head_bytes)

    def take(self, size: int) -> Array:
        if not self._plain.size:
            length = int.from_bytes(self._read(_LENGTH_BYTES).tobytes(), "little")
            self._plain = _inflate(self._read(length), next(self._sizes))
        taken, self._plain = self._plain[:size], self._plain[size:]
        return taken


def _inflate(packed: Array, size: int) -> Array:
    """Give the plain segment; never makes more than ``size`` bytes and one.

    Raises:
        UpdateInvalid: damaged, or another size.
    """
    if packed.size == size:
        return packed
    if not size <= 8 * packed.size <= 8 * size:
        raise UpdateInvalid(f"{packed.size} deflated bytes for {size}: no encoder writes that")
    unpacker = zlib.decompressobj(-15)
    try:
        plain = unpacker.decompress(packed.data, size + 1)
    except zlib.error as error:
        raise UpdateInvalid("deflated values that are damaged") from error
    if len(plain) != size or not unpacker.eof or unpacker.unused_data:
        raise UpdateInvalid(f"deflated values that do not come to {size} bytes")
    return np.frombuffer(plain, np.uint8)
