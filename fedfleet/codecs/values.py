"""What every codec of dense values is: a size known beforehand, and blocks.

A payload is a header (a seed, or nothing) and one segment per block of ``BLOCK`` elements, so a
receiver can decode what has arrived and needs memory for one block only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from fedfleet.codecs.encoded import BLOCK, ErrorBound, Step
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, FloatVector

# Gives the next so many bytes of a payload, as uint8.
Read = Callable[[int], Array]


class ValueCodec(Protocol):
    """Encodes each element of a vector."""

    @property
    def steps(self) -> tuple[Step, ...]: ...

    @property
    def is_unbiased(self) -> bool: ...

    @property
    def has_exact_size(self) -> bool:
        """Whether ``size`` is exact; if not, a payload has at least an eighth of it."""
        ...

    def size(self, elements: int) -> int:
        """The number of bytes, at most; of no elements, that is the header's."""
        ...

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        """Encode; the same bytes for the same values and seed.

        Raises:
            UpdateNotFinite, UpdateOutOfRange: values that the codec cannot hold.
        """
        ...

    def blocks(self, read: Read, elements: int) -> Iterator[tuple[int, FloatVector]]:
        """Yield (start, values); the values are valid until the next pair is asked for.

        Reads the header first and then a segment whenever a pair is asked for.

        Raises:
            UpdateInvalid, UpdateNotFinite: while iterating.
        """
        ...

    def error_bound(self, values_P: FloatVector) -> ErrorBound: ...


class Reader:
    """Takes a payload apart from front to back; nothing is copied."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._place = 0

    @property
    def left(self) -> int:
        return self._data.size - self._place

    def take(self, size: int) -> Array:
        """The next bytes. Raises UpdateInvalid: there are fewer."""
        if size > self.left:
            raise UpdateInvalid(f"the encoded vector ends {size - self.left} bytes too early")
        self._place += size
        return self._data[self._place - size : self._place]

    def take_part(self) -> memoryview:
        """A part that stands behind its length, as ``part`` writes it."""
        size = int.from_bytes(self.take(PART_HEAD_BYTES).tobytes(), "little")
        return self.take(size).data


PART_HEAD_BYTES = 8


def part(data: bytes) -> bytes:
    """Put the length (8 bytes) before a part that more follows."""
    return len(data).to_bytes(PART_HEAD_BYTES, "little") + data


def spans(elements: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of each block."""
    for start in range(0, elements, BLOCK):
        yield start, min(BLOCK, elements - start)


def check_size(codec: ValueCodec, received: int, elements: int) -> None:
    """Raises UpdateInvalid: not as many bytes as the codec writes for so many elements."""
    want = codec.size(elements)
    if codec.has_exact_size and received == want:
        return
    if codec.has_exact_size or not want <= 8 * received <= 8 * want:
        limit = "" if codec.has_exact_size else "at most "
        raise UpdateInvalid(
            f"{received} bytes of {names(codec.steps)} for {elements} elements, "
            f"expected {limit}{want}"
        )


def names(steps: tuple[Step, ...]) -> str:
    """A chain's names for a message, cut off where they are somebody's long ones."""
    return "|".join(step.name for step in steps)[:80]


def decode_blocks(
    codec: ValueCodec, data: bytes | memoryview, elements: int
) -> Iterator[tuple[int, FloatVector]]:
    """Decode block by block. What ``check_size`` refuses is refused before the first."""
    check_size(codec, len(data), elements)
    reader = Reader(data)
    return _to_the_end(codec.blocks(reader.take, elements), reader)


def _to_the_end(
    blocks: Iterator[tuple[int, FloatVector]], reader: Reader
) -> Iterator[tuple[int, FloatVector]]:
    yield from blocks
    if reader.left:
        raise UpdateInvalid(f"{reader.left} bytes after the end of the encoded vector")


def decode_dense(codec: ValueCodec, data: bytes | memoryview, elements: int) -> FloatVector:
    """Decode all blocks into one vector. The sizes are checked before it is allocated."""
    blocks = decode_blocks(codec, data, elements)
    values_P = np.empty(elements, np.float32)
    for start, block in blocks:
        values_P[start : start + block.size] = block
    return values_P
