"""Limits how often somebody may do something: a token bucket each, for a bounded number of them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

# Of a hundred bytes or so. Who can speak with more addresses than this is not held by a limit per
# address; the bucket that is forgotten is the one that rested longest.
MOST_BUCKETS = 10_000


class Buckets:
    """One bucket per name. Not safe from several threads.

    Args:
        per_s: what flows into each bucket; 0 lets everything pass.
        burst: what each bucket holds, and holds at first.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        *,
        most: int = MOST_BUCKETS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._most = most
        self._clock = clock
        # Name: what was in it, and when. Rested longest first.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, name: str) -> float:
        """Take one and return 0, or take nothing and return the seconds until there is one."""
        wait_s = self.wait_s(name)
        if wait_s == 0 and self._per_s:
            self._levels[name] = (self._level(name) - 1, self._clock())
            self._levels.move_to_end(name)
            if len(self._levels) > self._most:
                self._levels.popitem(last=False)
        return wait_s

    def wait_s(self, name: str) -> float:
        """Seconds until there is one, 0 where there is."""
        if not self._per_s:
            return 0.0
        return max(0.0, (1 - self._level(name)) / self._per_s)

    def _level(self, name: str) -> float:
        now_s = self._clock()
        level, at_s = self._levels.get(name, (self._burst, now_s))
        return min(self._burst, level + (now_s - at_s) * self._per_s)
