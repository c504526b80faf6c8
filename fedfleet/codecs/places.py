"""Which places of a vector are always sent, and which of the others a sparsifier chooses from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedfleet.types import Array, FloatVector


@dataclass(frozen=True)
class Places:
    """A vector in two: the places that are spared, and the rest in one piece without gaps.

    Legend: S = spared elements, R = the rest.

    Args:
        spared: slices in order that do not overlap.
        elements: of the whole vector.
    """

    spared: tuple[slice, ...]
    elements: int

    def __post_init__(self) -> None:
        ends = [end for span in self.spared for end in (span.start, span.stop)]
        if any(b < a for a, b in itertools.pairwise([0, *ends, self.elements])):
            raise ValueError(
                f"spans {self.spared}: must be in order, apart, and within {self.elements} elements"
            )

    @cached_property
    def _rest(self) -> tuple[slice, ...]:
        starts = [0, *(span.stop for span in self.spared)]
        stops = [*(span.start for span in self.spared), self.elements]
        return tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))

    @cached_property
    def _spared_S(self) -> Array:
        return np.concatenate([np.arange(span.start, span.stop) for span in self.spared])

    @cached_property
    def spared_count(self) -> int:
        return sum(span.stop - span.start for span in self.spared)

    @property
    def rest_count(self) -> int:
        return self.elements - self.spared_count

    def take_spared(self, values_P: FloatVector) -> FloatVector:
        """The spared values, copied: float32, shape (S,)."""
        return values_P[self._spared_S] if self.spared else values_P[:0]

    def rest_of(self, values_P: FloatVector) -> list[FloatVector]:
        """The others, as views whose lengths add up to R."""
        return [values_P[span] for span in self._rest]

    def in_whole(self, positions_K: Array) -> Array:
        """From increasing positions in the rest to those in the whole vector."""
        if not self.spared:
            return positions_K
        lengths = [span.stop - span.start for span in self._rest]
        counts = np.diff(np.searchsorted(positions_K, np.cumsum([0, *lengths])))
        shifts = np.cumsum([0, *(span.stop - span.start for span in self.spared)])
        positions: Array = positions_K + np.repeat(shifts, counts)
        return positions

    def join(
        self, positions_K: Array, values_K: FloatVector, spared_S: FloatVector
    ) -> tuple[Array, FloatVector]:
        """Put what was chosen (positions in the whole vector) and what is spared in order."""
        if not self.spared:
            return positions_K, values_K
        before = np.searchsorted(positions_K, [span.start for span in self.spared])
        lengths = np.array([span.stop - span.start for span in self.spared])
        is_spared = np.repeat(
            np.arange(2 * lengths.size + 1) % 2 == 1,
            _alternate(np.diff(before, prepend=0, append=positions_K.size), lengths),
        )
        positions = np.empty(is_spared.size, np.int64)
        values = np.empty(is_spared.size, np.float32)
        positions[is_spared], values[is_spared] = self._spared_S, spared_S
        positions[~is_spared], values[~is_spared] = positions_K, values_K
        return positions, values


def _alternate(odd: Array, even: Array) -> Array:
    """The first of one, the first of the other, and so on to the last of the first."""
    both = np.empty(odd.size + even.size, np.int64)
    both[::2], both[1::2] = odd, even
    return both
