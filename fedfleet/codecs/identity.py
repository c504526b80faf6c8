"""The codec that changes nothing: the little-endian array itself. Error 0, unbiased."""

from __future__ import annotations

import numpy as np

from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, Kind


def encode(values: Array) -> memoryview:
    """Return the bytes of a flat vector, not copied on a little-endian machine."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).data.cast("B")


def decode(data: bytes | memoryview, kind: Kind, elements: int) -> Array:
    """Return the flat vector, a read-only view of the bytes.

    Raises:
        UpdateInvalid: the bytes are not as many as the elements need.
    """
    dtype = kind.dtype.newbyteorder("<")
    if len(data) != elements * dtype.itemsize:
        raise UpdateInvalid(
            f"{len(data)} bytes for {elements} {kind.value} elements, "
            f"expected {elements * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype).astype(kind.dtype, copy=False)
