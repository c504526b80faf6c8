"""Sparsifiers keep the largest elements only: their positions, then their values.

A payload is the number of bytes of the positions (8 bytes), the positions (``rice``), and the
values, deflated: the largest elements crowd near the threshold, so their codes are far from equally
likely. Where small tensors are spared, the number of bytes of their values (8 bytes) and those
values stand before all that, and the positions count through the other elements only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from fedfleet.codecs import rice, select
from fedfleet.codecs.cast import Float16
from fedfleet.codecs.deflate import Deflate
from fedfleet.codecs.encoded import ErrorBound, Step, check_magnitude, square_norm
from fedfleet.codecs.places import Places
from fedfleet.codecs.ternary import Ternary
from fedfleet.codecs.uniform import Uniform
from fedfleet.codecs.values import PART_HEAD_BYTES, Reader, ValueCodec, decode_dense, part
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array, FloatVector

# Other draws for the spared values than for those that are chosen.
_SPARED_SEED = 0x9E3779B97F4A7C15


def kept(ratio: float, elements: int) -> int:
    """Exactly ``ceil(ratio * elements)``, the ratio taken as the decimal that it is written as."""
    return math.ceil(Fraction(repr(ratio)) * elements)


@dataclass(frozen=True, slots=True)
class Sparsifier:
    """The ``ceil(ratio * P)`` largest magnitudes, then a codec for their values. Biased.

    The squared error without that codec is at most ``(1 - K / P) |x|^2`` (Stich 2018, arXiv
    1809.07599, lemma A.1); the codec adds its own on the kept values. The bound stated takes what
    is dropped of the very vector.

    Args:
        steps: what stands in a header.
        values: of what is chosen.
        spared_values: of what is always sent.
        spared: which places those are; None where none are, for vectors of every length.
    """

    steps: tuple[Step, ...]
    ratio: float
    values: Deflate
    spared_values: Deflate
    spared: Places | None = None

    def sparing(self, spared: Places) -> Sparsifier:
        return replace(self, spared=spared)

    def max_size(self, elements: int) -> int:
        places = self._places(elements)
        count = kept(self.ratio, places.rest_count)
        chosen = PART_HEAD_BYTES + rice.max_bytes(count, places.rest_count)
        chosen += self.values.size(count)
        if not places.spared:
            return chosen
        return PART_HEAD_BYTES + self.spared_values.size(places.spared_count) + chosen

    def encode(self, values_P: FloatVector, seed: int) -> tuple[bytes, Array]:
        """Return the bytes, and which of the others than the spared were chosen."""
        places = self._places(values_P.size)
        rest_K = select.largest(places.rest_of(values_P), kept(self.ratio, places.rest_count))
        chosen_K = places.in_whole(rest_K)
        positions = part(rice.encode(rest_K, places.rest_count))
        chosen = self.values.encode(values_P[chosen_K], seed)
        if not places.spared:
            return b"".join([positions, chosen]), chosen_K
        spared_S = places.take_spared(values_P)
        check_magnitude(float(np.abs(spared_S).max(initial=0.0)))
        head = part(bytes(self.spared_values.encode(spared_S, seed ^ _SPARED_SEED)))
        return b"".join([head, positions, chosen]), chosen_K

    def decode(
        self, data: memoryview, elements: int, chosen_K: Array | None = None
    ) -> tuple[Array, FloatVector]:
        """Decode positions (int64, increasing) and values.

        Args:
            chosen_K: from ``encode``, where the positions in the bytes need not be decoded.

        Raises:
            UpdateInvalid, UpdateNotFinite: not what ``encode`` writes.
        """
        places = self._places(elements)
        count = kept(self.ratio, places.rest_count)
        reader = Reader(data)
        spared_S = np.zeros(0, np.float32)
        if places.spared:
            spared_S = decode_dense(self.spared_values, reader.take_part(), places.spared_count)
        positions = reader.take_part()
        values_K = decode_dense(self.values, reader.take(reader.left).data, count)
        if chosen_K is None:
            chosen_K = places.in_whole(rice.decode(positions, count, places.rest_count))
        return places.join(chosen_K, values_K, spared_S)

    def error_bound(self, values_P: FloatVector) -> ErrorBound:
        places = self._places(values_P.size)
        rest = places.rest_of(values_P)
        chosen_K = places.in_whole(select.largest(rest, kept(self.ratio, places.rest_count)))
        chosen = self.values.error_bound(values_P[chosen_K])
        spared = self.spared_values.error_bound(places.take_spared(values_P))
        squares = sum(square_norm(each) for each in rest)
        dropped = max(squares - square_norm(values_P[chosen_K]), 0.0) + 2.0**-40 * squares
        return ErrorBound(
            dropped + chosen.expected + spared.expected, dropped + chosen.worst + spared.worst
        )

    def _places(self, elements: int) -> Places:
        if self.spared is None:
            return Places((), elements)
        if self.spared.elements != elements:
            raise UpdateInvalid(f"{elements} elements, the model has {self.spared.elements}")
        return self.spared


def top_k(ratio: float, values: ValueCodec) -> Sparsifier:
    """The largest elements, each through a codec of values."""
    steps = (Step("topk", {"ratio": ratio}), *values.steps)
    if isinstance(values, Uniform):
        packed = Deflate(replace(values, by_scale=True), is_adaptive=True)
    else:
        packed = Deflate(values)
    return Sparsifier(steps, ratio, packed, Deflate(values))


def sparse_ternary(ratio: float) -> Sparsifier:
    """The largest elements, each as its sign times their mean; spared ones as float16.

    Sattler 2019, arXiv 1903.02891, algorithm 1 (ties do not send more, unlike there).
    """
    steps = (Step("stc", {"ratio": ratio}),)
    return Sparsifier(steps, ratio, Deflate(Ternary()), Deflate(Float16()))
