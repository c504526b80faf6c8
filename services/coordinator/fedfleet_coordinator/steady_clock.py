"""Tells for how long the clock was not set, as what has ended is forgotten by it."""

from __future__ import annotations

import time
from collections.abc import Callable

# What the two may drift apart: a clock that is slewed, at most 500 ppm, does so by 43 s in a day.
DRIFT_S = 120.0


class SteadyClock:
    """Compares the time of day with a clock that nobody sets.

    A machine that slept counts as one whose clock was set.

    Args:
        wall: seconds since the epoch.
        monotonic: any seconds that never go back.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._began = wall(), monotonic()

    def look(self) -> tuple[float, float]:
        """The time of day, and for how many seconds it has advanced as it should."""
        now_s, count_s = self._wall(), self._monotonic()
        began_now_s, began_count_s = self._began
        if abs((now_s - began_now_s) - (count_s - began_count_s)) > DRIFT_S:
            self._began = now_s, count_s
        return now_s, count_s - self._began[1]
