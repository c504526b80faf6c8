"""A weighted sum of float vectors that is the same, bit for bit, in every order.

Floating-point addition is not associative; integer addition is. Each term ``weight * value`` is
rounded once to a fixed-point int64 whose scale is chosen from stated bounds on weight and value, so
that no sum within the bounds can overflow. The integers form a ring, so masked terms (secure
aggregation) can be added to the same accumulator.

Legend: P = elements of the vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fedfleet.errors import UpdateInvalid, UpdateNotFinite, UpdateOutOfRange
from fedfleet.types import Array

# Elements that are worked on at a time: their float64 products stay in the second-level cache.
BLOCK = 1 << 15
# Weights are multiples of this: samples are whole numbers, and other weights lose nothing that
# the mean could show.
WEIGHT_STEP = 2.0**-20
_SUM_BITS = 62
# 1.5 * 2^52: floats near it are 1 apart, so adding it to a smaller number rounds to an integer.
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = np.float64(_MAGIC).view(np.int64)
_SMALL = 2.0**50
# So many half steps of the coarse integer fit into the fine one.
MAX_TERMS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SumBounds:
    """What the terms of one sum may be.

    Args:
        total_weight: bound on the sum of the weights, > 0.
        max_abs: bound on the magnitude of a value, > 0.
        fine: keep a second integer for what the first rounds away. Twice the memory; for vectors
            whose values span many orders of magnitude (running variances).
    """

    total_weight: float
    max_abs: float
    fine: bool = False


class ExactSum:
    """Accumulates weighted vectors of one length.

    The mean's error against real arithmetic is at most ``resolution / (2 * mean weight)`` for the
    fixed point, plus ``2^-51`` times the weighted mean of the magnitudes for float64's roundings.
    """

    def __init__(self, elements: int, bounds: SumBounds) -> None:
        self.bounds = bounds
        # scale * value * total weight <= 2^62, so no partial sum can leave int64.
        self._bits = _SUM_BITS - math.ceil(math.log2(bounds.total_weight * bounds.max_abs))
        # One term's remainder is at most half a step of the first integer.
        self._fine_bits = _SUM_BITS - MAX_TERMS.bit_length() + 1 + self._bits
        self._coarse_P = np.zeros(elements, np.int64)
        self._fine_P = np.zeros(elements if bounds.fine else 0, np.int64)
        self._weight_steps = 0
        self.terms = 0

    @property
    def resolution(self) -> float:
        """The step to which each term is rounded."""
        return math.ldexp(1.0, -(self._fine_bits if self.bounds.fine else self._bits))

    @property
    def total_weight(self) -> float:
        return self._weight_steps * WEIGHT_STEP

    def add(self, values_P: Array, weight: float) -> None:
        """Add ``weight * values``; all of it or nothing.

        Args:
            values_P: float32 or float64, shape (P,); not kept, not changed.
            weight: > 0; rounded to a multiple of ``WEIGHT_STEP``.

        Raises:
            UpdateInvalid: another length, the weights pass their bound, or too many terms.
            UpdateNotFinite: a value is NaN or infinite.
            UpdateOutOfRange: a value's magnitude passes the stated bound.
        """
        if values_P.shape != self._coarse_P.shape:
            raise UpdateInvalid(
                f"a vector of {values_P.shape} values, expected {self._coarse_P.shape}"
            )
        self.add_blocks(lambda: iter([(0, values_P)]), weight)

    def add_blocks(self, blocks: Callable[[], Iterator[tuple[int, Array]]], weight: float) -> None:
        """Add a vector that is made block by block, as ``add`` would; all of it or nothing.

        Args:
            blocks: starts the vector anew at each call: pairs of start and values, in order,
                without gaps. It is asked twice where a fault shows after some blocks: what was
                added is then taken out again, exactly, for the integers are a ring.
            weight: as for ``add``.

        Raises:
            As ``add``, and whatever ``blocks`` raises.
        """
        steps = self._check_weight(weight)
        scratch = _Scratch(math.ldexp(steps * WEIGHT_STEP, self._bits))
        done = 0
        try:
            for start, values in _short(blocks()):
                if start != done or start + values.size > self._coarse_P.size:
                    raise UpdateInvalid(f"a block at {start}, expected one at {done}")
                largest = check_values(values, self.bounds.max_abs)
                self._fold(slice(start, start + values.size), values, largest, scratch)
                done += values.size
            if done != self._coarse_P.size:
                raise UpdateInvalid(f"{done} values, expected {self._coarse_P.size}")
        except BaseException:
            if done:
                self._take_out(blocks(), done, scratch)
            raise
        self._weight_steps += steps
        self.terms += 1

    def add_sparse(self, positions_K: Array, values_K: Array, weight: float) -> None:
        """Add a vector that is zero but at some positions; all of it or nothing.

        The result is that of ``add`` for the same vector, bit for bit.

        Args:
            positions_K: int64, strictly increasing within ``range(P)``, shape (K,).
            values_K: float32 or float64, shape (K,).
            weight: as for ``add``.

        Raises:
            As ``add``; UpdateInvalid also for positions that are none.
        """
        steps = self._check_weight(weight)
        if positions_K.shape != values_K.shape or positions_K.ndim != 1:
            raise UpdateInvalid(f"{values_K.shape} values at {positions_K.shape} positions")
        if positions_K.size and not (
            positions_K[0] >= 0
            and positions_K[-1] < self._coarse_P.size
            and bool((positions_K[1:] > positions_K[:-1]).all())
        ):
            raise UpdateInvalid("positions that do not increase within the vector")
        largest = check_values(values_K, self.bounds.max_abs)
        scratch = _Scratch(math.ldexp(steps * WEIGHT_STEP, self._bits))
        for start in range(0, values_K.size, BLOCK):
            part = slice(start, start + BLOCK)
            self._fold(positions_K[part], values_K[part], largest, scratch)
        self._weight_steps += steps
        self.terms += 1

    def _take_out(
        self, blocks: Iterator[tuple[int, Array]], elements: int, scratch: _Scratch
    ) -> None:
        """Subtract the first elements of a vector that was added."""
        for start, values in _short(blocks):
            if start >= elements:
                return
            largest = check_values(values, self.bounds.max_abs)
            place = slice(start, start + values.size)
            self._fold(place, values, largest, scratch, subtract=True)

    def _fold(
        self,
        place: slice | Array,
        values: Array,
        largest: float,
        scratch: _Scratch,
        *,
        subtract: bool = False,
    ) -> None:
        """Add (or subtract) the integers of at most ``BLOCK`` values; ``place`` has no repeats."""
        product, rounded, integers = scratch.rounded(values, largest)
        fine = None
        if self.bounds.fine:
            # The difference is exact: both are float64 and close to each other.
            remainder = (product - rounded) * math.ldexp(1.0, self._fine_bits - self._bits)
            fine = np.rint(remainder).astype(np.int64)
        if subtract:
            self._coarse_P[place] -= integers
        else:
            self._coarse_P[place] += integers
        if fine is not None:
            self._fine_P[place] += -fine if subtract else fine

    def _check_weight(self, weight: float) -> int:
        if not (math.isfinite(weight) and weight > 0):
            raise UpdateInvalid(f"weight {weight}: must be a finite number above 0")
        steps = max(1, round(weight / WEIGHT_STEP))
        if (self._weight_steps + steps) * WEIGHT_STEP > self.bounds.total_weight:
            raise UpdateInvalid(
                f"weight {weight}: the sum of weights would pass {self.bounds.total_weight:g}; "
                "raise rounds.max_weight in the recipe"
            )
        if self.terms >= MAX_TERMS:
            raise UpdateInvalid(f"a sum of more than {MAX_TERMS} updates; choose a smaller cohort")
        return steps

    def mean(self) -> Array:
        """Return the weighted mean, float64, shape (P,).

        Raises:
            UpdateInvalid: nothing was added.
        """
        if not self._weight_steps:
            raise UpdateInvalid("the mean of no update does not exist")
        mean_P = self.total()
        mean_P /= self.total_weight
        return mean_P

    def total(self) -> Array:
        """Return the weighted sum, float64, shape (P,)."""
        total_P: Array = self._coarse_P * math.ldexp(1.0, -self._bits)
        if self.bounds.fine:
            total_P += self._fine_P * math.ldexp(1.0, -self._fine_bits)
        return total_P


class _Scratch:
    """Turns a block of values into integers, in memory that is used again."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._product = np.empty(BLOCK)
        self._rounded = np.empty(BLOCK)
        self._integers = np.empty(BLOCK, np.int64)

    def rounded(self, values: Array, largest: float) -> tuple[Array, Array, Array]:
        """Return ``scale * values``, that rounded to nearest (ties to even), and as int64."""
        n = values.size
        product, rounded, integers = self._product[:n], self._rounded[:n], self._integers[:n]
        # Not in one step: numpy would multiply float32 by a Python float in float32.
        np.copyto(product, values)
        product *= self._scale
        if largest * self._scale < _SMALL:
            # The addition rounds, and leaves the integer in the low bits of the float: twice as
            # fast as rounding and converting, with the same result.
            np.add(product, _MAGIC, out=rounded)
            np.subtract(rounded.view(np.int64), _MAGIC_BITS, out=integers)
            rounded -= _MAGIC
        else:
            np.rint(product, out=rounded)
            np.copyto(integers, rounded, casting="unsafe")
        return product, rounded, integers


def _short(blocks: Iterator[tuple[int, Array]]) -> Iterator[tuple[int, Array]]:
    """Cut blocks into ones that stay in the cache."""
    for start, values in blocks:
        for cut in range(0, values.size, BLOCK):
            yield start + cut, values[cut : cut + BLOCK]


def check_values(values: Array, max_abs: float) -> float:
    """Check that every value is finite and within a bound; return the largest magnitude.

    Raises:
        UpdateNotFinite: a value is NaN or infinite.
        UpdateOutOfRange: a value's magnitude passes the bound.
    """
    if not values.size:
        return 0.0
    # NaN goes through min and max, so one comparison sees all three faults.
    largest = max(-float(values.min()), float(values.max()))
    if not math.isfinite(largest):
        raise UpdateNotFinite("the update holds NaN or infinity; lower the learning rate")
    if largest > max_abs:
        raise UpdateOutOfRange(
            f"the update holds the value {largest:g}, more than {max_abs:g} in magnitude; "
            "normalise the inputs or lower the learning rate"
        )
    return largest
