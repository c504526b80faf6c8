"""How long backends take, and what follows from it for each size of a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from fedfleet.data.images import Pixels
from fedfleet_inference_api.backends.backend import Backend

# Of one backend at one size of a batch: so long and so often, but no more than that is begun.
MEASURE_S, LEAST_RUNS = 0.06, 3
MOST_S = 0.4
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


def measure(backend: Backend, images: Pixels) -> Times:
    """Time a backend with a full batch of images; the quickest of several runs, since whatever
    else the machine does can only make a run longer.
    """
    return Times(_quickest_s(backend, images[:1]), _quickest_s(backend, images))


def _quickest_s(backend: Backend, images: Pixels) -> float:
    backend.run(images)  # memory, thread pools and kernels are set up
    begun_s = time.perf_counter()
    best_s, runs = float("inf"), 0
    while True:
        started_s = time.perf_counter()
        backend.run(images)
        ended_s = time.perf_counter()
        best_s = min(best_s, ended_s - started_s)
        runs += 1
        spent_s = ended_s - begun_s
        if spent_s >= (MEASURE_S if runs >= LEAST_RUNS else MOST_S):
            return best_s


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
