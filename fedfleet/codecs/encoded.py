"""What a codec chain makes of a vector: plain values that any wire can carry.

Legend, for the whole package: P = elements of the vector, K = elements that a sparsifier keeps,
B = elements of one block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedfleet.errors import LimitExceeded, UpdateInvalid, UpdateNotFinite, UpdateOutOfRange
from fedfleet.types import Array

# Elements that are worked on at a time: a block and its scratch stay in the second-level cache.
BLOCK = 1 << 15
MAX_ELEMENTS = 1 << 31
# Lossy codecs take no value beyond this, so that no scale and no product of theirs can overflow.
MAX_ABS = 2.0**100


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain as it stands in a header: a name and numbers."""

    name: str
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An encoded vector.

    Args:
        steps: the chain, first applied first; the same for every vector that it encodes.
        elements: length of the vector before encoding.
        data: the bytes, little-endian on every machine.
    """

    steps: tuple[Step, ...]
    elements: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """What a chain does to one vector, as squared Euclidean norms of decoded minus given.

    Args:
        expected: bound on the mean over seeds.
        worst: bound for every seed.
    """

    expected: float
    worst: float


def check_elements(elements: int) -> int:
    """Raises UpdateInvalid or LimitExceeded: no number of elements that is decoded here."""
    if elements < 0:
        raise UpdateInvalid(f"{elements} elements: must not be negative")
    if elements > MAX_ELEMENTS:
        raise LimitExceeded(f"{elements} elements: at most {MAX_ELEMENTS} are allowed")
    return elements


def check_magnitude(largest: float) -> None:
    """Check the largest magnitude of what is to be encoded (NaN where one value is NaN).

    Raises:
        UpdateNotFinite, UpdateOutOfRange.
    """
    if not math.isfinite(largest):
        raise UpdateNotFinite("the vector holds NaN or infinity; lower the learning rate")
    if largest > MAX_ABS:
        raise UpdateOutOfRange(
            f"the vector holds the value {largest:g}, more than {MAX_ABS:g} in magnitude"
        )


def check_scales(scales: Array, largest: float) -> None:
    """Check scales that were received.

    Raises:
        UpdateNotFinite: NaN or infinite.
        UpdateInvalid: negative, or larger than an encoder writes.
    """
    if not scales.size:
        return
    low, high = float(scales.min()), float(scales.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UpdateNotFinite("a scale of the encoded vector is NaN or infinite")
    if low < 0 or high > largest:
        raise UpdateInvalid(f"a scale of the encoded vector is {low if low < 0 else high:g}")


def square_norm(values_P: Array) -> float:
    """The squared Euclidean norm, in float64."""
    return float(np.square(values_P, dtype=np.float64).sum())
