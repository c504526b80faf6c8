"""What asynchronous algorithms share: how many workers train at once, and what staleness costs.

An update is stale by the versions that were made between the one that its worker started from and
the one that it becomes a part of. Its weight is multiplied by s(staleness) (Xie et al. 2019,
arXiv:1903.03934, section 5.2): ``constant`` 1, ``polynomial`` (1 + staleness)^-a, ``hinge`` 1 up to
a staleness of b and 1 / (a (staleness - b) + 1) beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedfleet.algorithms.base import Algorithm, Asynchrony
from fedfleet.types import UpdateHeader

_EXPONENT, _HINGE_AFTER, _HINGE_SLOPE = 0.5, 4, 10.0
_LEAST = 2.0**-20
_OF = {"staleness_exponent": "polynomial", "hinge_after": "hinge", "hinge_slope": "hinge"}


@dataclass(frozen=True, kw_only=True, slots=True)
class AsynchronousOptions:
    """Options of every asynchronous algorithm.

    Args:
        concurrency: workers that train at any time; absent means all that are connected.
        max_staleness: an assignment is given up once its update would be more stale than that, and
            its worker gets the newest version; absent means never.
        staleness: how the weight of an update falls with its staleness.
        staleness_exponent: a of ``polynomial``, above 0; absent means 0.5.
        hinge_after: b of ``hinge``, 0 or more; absent means 4.
        hinge_slope: a of ``hinge``, above 0; absent means 10.
    """

    concurrency: int | None = None
    max_staleness: int | None = None
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    staleness_exponent: float | None = None
    hinge_after: int | None = None
    hinge_slope: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and not 1 <= self.concurrency <= 100_000:
            raise ValueError(f"concurrency = {self.concurrency}: must be from 1 to 100000")
        if self.max_staleness is not None and not 0 <= self.max_staleness <= 1_000_000:
            raise ValueError(f"max_staleness = {self.max_staleness}: must be from 0 to 1000000")
        for name, function in _OF.items():
            if getattr(self, name) is not None and self.staleness != function:
                raise ValueError(f'{name}: has no meaning with staleness = "{self.staleness}"')
        for name in ("staleness_exponent", "hinge_slope"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1000:
                raise ValueError(f"{name} = {value}: must be above 0 and at most 1000")
        if self.hinge_after is not None and self.hinge_after < 0:
            raise ValueError(f"hinge_after = {self.hinge_after}: must be 0 or more")

    def freshness(self, staleness: int) -> float:
        """s(staleness), in (0, 1]: at least 2^-20, since a weight of 0 counts for nothing."""
        return max(_LEAST, self._freshness(staleness))

    def _freshness(self, staleness: int) -> float:
        if self.staleness == "constant":
            return 1.0
        if self.staleness == "polynomial":
            exponent = self.staleness_exponent
            return polynomial(staleness, _EXPONENT if exponent is None else exponent)
        after = _HINGE_AFTER if self.hinge_after is None else self.hinge_after
        slope = _HINGE_SLOPE if self.hinge_slope is None else self.hinge_slope
        return hinge(staleness, after, slope)


def polynomial(staleness: int, exponent: float) -> float:
    """(1 + staleness)^-exponent."""
    return float((1 + staleness) ** -exponent)


def hinge(staleness: int, after: int, slope: float) -> float:
    """1 up to ``after``, then 1 / (slope * (staleness - after) + 1)."""
    return 1.0 if staleness <= after else 1.0 / (slope * (staleness - after) + 1.0)


class AsynchronousAlgorithm(Algorithm):
    """What the asynchronous algorithms have in common: every fresh update counts alike.

    A version is not divided by the sum of the weights, as a mean is, but by the number of its
    updates: one that is made of stale updates alone is a smaller step.
    """

    def __init__(self, options: AsynchronousOptions) -> None:
        self._asynchronous = options

    @property
    def asynchrony(self) -> Asynchrony:
        """As the recipe has it."""
        return Asynchrony(self._asynchronous.concurrency, self._asynchronous.max_staleness)

    def freshness(self, staleness: int) -> float:
        """s(staleness)."""
        return self._asynchronous.freshness(staleness)

    def weight(self, header: UpdateHeader) -> float:
        """1: a worker that holds more examples delivers more rarely already."""
        return 1.0

    @property
    def largest_weight(self) -> float:
        """Of a fresh update."""
        return 1.0
