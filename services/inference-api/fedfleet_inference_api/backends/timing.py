"""How long backends take, and what follows from it for each size of a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from fedfleet.data.images import Pixels
from fedfleet_inference_api.backends.backend import Backend

# Of one backend at one size of a batch: so long and so often, but no more than that is begun.
MEASURE_S, LEAST_RUNS = 0.1, 5
MOST_S = 0.4
BURST_S = 0.01
# A backend is taken beside another, at twice the memory, for a tenth of the time or more.
WORTH = 0.1


@dataclass(frozen=True)
class Times:
    """Seconds for one image alone, and for a full batch."""

    one_s: float
    full_s: float


@dataclass(frozen=True)
class Plan:
    """Which backends a version is computed with.

    Args:
        few: name of the one for batches of up to ``most`` images.
        many: for larger ones; the same where one backend is the best, or nearly, for all.
    """

    few: str
    many: str
    most: int


def measure(backends: Mapping[str, Backend], images: Pixels) -> dict[str, Times]:
    """Time backends with one image and with all of them, as a full batch.

    In bursts, in turn, so that whatever else the machine does meets all of them; and the quickest
    run counts, since it can only make a run longer.
    """
    one, full = images[:1], images
    watches = {
        name: (_Watch(backend, one), _Watch(backend, full)) for name, backend in backends.items()
    }
    going = [watch for pair in watches.values() for watch in pair]
    while going:
        going = [watch for watch in going if watch.burst()]
    return {name: Times(one.best_s, full.best_s) for name, (one, full) in watches.items()}


class _Watch:
    """The runs of one backend with one size of a batch."""

    def __init__(self, backend: Backend, images: Pixels) -> None:
        self.best_s = float("inf")
        self._backend = backend
        self._images = images
        self._runs = 0
        self._spent_s = 0.0

    def burst(self) -> bool:
        """Run for a little; returns whether more is needed."""
        self._backend.run(self._images)  # others have been in the caches
        began_s = now_s = time.perf_counter()
        while now_s - began_s < BURST_S:
            started_s = now_s
            self._backend.run(self._images)
            now_s = time.perf_counter()
            self.best_s = min(self.best_s, now_s - started_s)
            self._runs += 1
        self._spent_s += now_s - began_s
        return self._spent_s < (MEASURE_S if self._runs >= LEAST_RUNS else MOST_S)


def plan(times: Mapping[str, Times], max_batch: int) -> Plan:
    """Choose by times; of equal ones the first name.

    Between one image and a full batch a backend's time is taken to be a straight line.
    """
    one_s = min(found.one_s for found in times.values())
    full_s = min(found.full_s for found in times.values())

    def cost(few: str, many: str) -> float:
        """How much longer a pair takes than the best of each, with a price for the second."""
        slower = times[few].one_s / one_s + times[many].full_s / full_s
        return slower + (WORTH if few != many else 0.0)

    few, many = min(((a, b) for a in times for b in times), key=lambda pair: cost(*pair))
    return Plan(few, many, _crossing(times[few], times[many], max_batch))


def _crossing(few: Times, many: Times, max_batch: int) -> int:
    """The largest batch for which the first takes no longer than the second."""

    def at(found: Times, batch: int) -> float:
        share = (batch - 1) / max(max_batch - 1, 1)
        return found.one_s + share * (found.full_s - found.one_s)

    return max(b for b in range(1, max_batch + 1) if b == 1 or at(few, b) <= at(many, b))
