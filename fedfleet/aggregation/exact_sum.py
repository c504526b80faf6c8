"""A weighted sum of float vectors that is the same, bit for bit, in every order.

Floating-point addition is not associative; integer addition is. Each term ``weight * value`` is
rounded once to a fixed-point int64 whose scale is chosen from stated bounds on weight and value, so
that no sum within the bounds can overflow. The integers form a ring, so masked terms (secure
aggregation) can be added to the same accumulator.

Legend: P = elements of the vector.
"""

from __future__ import annotations

import math
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
        steps = self._check_term(values_P, weight)
        scale = math.ldexp(steps * WEIGHT_STEP, self._bits)
        product = np.empty(BLOCK)
        rounded = np.empty(BLOCK)
        integers = np.empty(BLOCK, np.int64)
        for start in range(0, values_P.size, BLOCK):
            part = values_P[start : start + BLOCK]
            n = part.size
            # dtype: numpy would multiply float32 by a Python float in float32.
            np.multiply(part, scale, out=product[:n], dtype=np.float64)
            np.rint(product[:n], out=rounded[:n])
            np.copyto(integers[:n], rounded[:n], casting="unsafe")
            self._coarse_P[start : start + n] += integers[:n]
            if self.bounds.fine:
                self._add_fine(start, product[:n], rounded[:n])
        self._weight_steps += steps
        self.terms += 1

    def _add_fine(self, start: int, product: Array, rounded: Array) -> None:
        # The difference is exact: both are float64 and close to each other.
        remainder = np.rint((product - rounded) * math.ldexp(1.0, self._fine_bits - self._bits))
        self._fine_P[start : start + product.size] += remainder.astype(np.int64)

    def _check_term(self, values_P: Array, weight: float) -> int:
        if values_P.shape != self._coarse_P.shape:
            raise UpdateInvalid(
                f"a vector of {values_P.shape} values, expected {self._coarse_P.shape}"
            )
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
        check_values(values_P, self.bounds.max_abs)
        return steps

    def mean(self) -> Array:
        """Return the weighted mean, float64, shape (P,).

        Raises:
            UpdateInvalid: nothing was added.
        """
        if not self._weight_steps:
            raise UpdateInvalid("the mean of no update does not exist")
        mean_P = self._coarse_P * math.ldexp(1.0, -self._bits)
        if self.bounds.fine:
            mean_P += self._fine_P * math.ldexp(1.0, -self._fine_bits)
        mean_P /= self.total_weight
        return mean_P


def check_values(values: Array, max_abs: float) -> None:
    """Check that every value is finite and within a bound.

    Raises:
        UpdateNotFinite: a value is NaN or infinite.
        UpdateOutOfRange: a value's magnitude passes the bound.
    """
    if not values.size:
        return
    # NaN goes through min and max, so one comparison sees all three faults.
    largest = max(-float(values.min()), float(values.max()))
    if not math.isfinite(largest):
        raise UpdateNotFinite("the update holds NaN or infinity; lower the learning rate")
    if largest > max_abs:
        raise UpdateOutOfRange(
            f"the update holds the value {largest:g}, more than {max_abs:g} in magnitude; "
            "normalise the inputs or lower the learning rate"
        )
