"""What every codec of dense values is: a size known beforehand, and blocks.

A payload is a header (a seed, or nothing) and one segment per block of ``BLOCK`` elements, so a
receiver can decode what has arrived and needs memory for one block only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from fedfleet.codecs.encoded import BLOCK, ErrorBound, Step
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, FloatVector


class ValueCodec(Protocol):
    """Encodes each element of a vector."""

    @property
    def step(self) -> Step: ...

    @property
    def is_unbiased(self) -> bool: ...

    def size(self, elements: int) -> int:
        """The exact number of bytes."""
        ...

    def encode(self, values_P: FloatVector, seed: int) -> bytes | memoryview:
        """Encode; the same bytes for the same values and seed.

        Raises:
            UpdateNotFinite, UpdateOutOfRange: values that the codec cannot hold.
        """
        ...

    def blocks(self, data: memoryview, elements: int) -> Iterator[tuple[int, FloatVector]]:
        """Yield (start, values); the values are valid until the next pair is asked for.

        ``data`` is as long as ``size(elements)`` says.

        Raises:
            UpdateInvalid, UpdateNotFinite: while iterating.
        """
        ...

    def error_bound(self, values_P: FloatVector) -> ErrorBound: ...


def spans(elements: int) -> Iterator[tuple[int, int]]:
    """Yield (start, length) of each block."""
    for start in range(0, elements, BLOCK):
        yield start, min(BLOCK, elements - start)


def check_size(codec: ValueCodec, data: memoryview, elements: int) -> None:
    """Raises UpdateInvalid: not as many bytes as the codec writes for so many elements."""
    want = codec.size(elements)
    if len(data) != want:
        raise UpdateInvalid(
            f"{len(data)} bytes of {codec.step.name} for {elements} elements, expected {want}"
        )


def decode_dense(codec: ValueCodec, data: memoryview, elements: int) -> FloatVector:
    """Decode all blocks into one vector. The sizes are checked before it is allocated."""
    check_size(codec, data, elements)
    values_P = np.empty(elements, np.float32)
    for start, block in codec.blocks(data, elements):
        values_P[start : start + block.size] = block
    return values_P


def uint8(data: memoryview) -> Array:
    """The bytes as an array, not copied."""
    return np.frombuffer(data, np.uint8)
