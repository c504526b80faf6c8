"""How long backends take, and what follows from it for each size of a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fedfleet.data.images import Pixels
from fedfleet_inference_api.backends.backend import Backend

# Of one backend at one size of a batch: so long and so often, but no more than that is begun.
MEASURE_S, LEAST_RUNS = 0.1, 5
MOST_S = 0.4
BURST_S = 0.01
# A first run that takes so long counts; a quicker one is mostly of what is set up in it.
SLOW_S = 0.1
# A backend that takes so many times as long as another one is timed no further.
HOPELESS = 3.0
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


class Budget:
    """The time that the runs of one version's choice may take; one under way is finished.

    Args:
        stopping: set when the process ends, and the budget with it.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        seconds: float,
        stopping: threading.Event,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds = seconds
        self.clock = clock
        self._stopping = stopping
        self._end_s = clock() + seconds

    def has(self, seconds: float = 0.0) -> bool:
        """Whether something that takes so long may be begun."""
        return not self._stopping.is_set() and self.clock() + seconds < self._end_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no run; it takes nothing of the budget."""
        began_s = self.clock()
        try:
            yield
        finally:
            self._end_s += self.clock() - began_s


def measure(backends: Mapping[str, Backend], images: Pixels, budget: Budget) -> dict[str, Times]:
    """Time backends with one image and with all of them, as a full batch.

    In bursts, in turn, so that whatever else the machine does meets all of them; and the quickest
    run counts, since it can only make a run longer.

    Returns:
        Times of those that there was time for, in the order that was given. Where there was none
        for a full batch of each, it is taken to be so many times one image.
    """
    ones = {name: _Watch(backend, images[:1], budget) for name, backend in backends.items()}
    _time(list(ones.values()))
    timed = {name: watch for name, watch in ones.items() if watch.is_timed}
    fulls = {
        name: _Watch(backends[name], images, budget, watch.best_s * len(images))
        for name, watch in timed.items()
    }
    _time(list(fulls.values()))
    if all(watch.is_timed for watch in fulls.values()):
        return {name: Times(timed[name].best_s, fulls[name].best_s) for name in timed}
    return {name: Times(one.best_s, one.best_s * len(images)) for name, one in timed.items()}


def _time(watches: list[_Watch]) -> None:
    going = watches
    while going:
        going = [watch for watch in going if watch.burst()]
        best_s = min(watch.best_s for watch in watches)
        going = [watch for watch in going if watch.best_s <= HOPELESS * best_s]


class _Watch:
    """The runs of one backend with one size of a batch.

    Args:
        expected_s: how long one run may take.
    """

    def __init__(
        self, backend: Backend, images: Pixels, budget: Budget, expected_s: float = 0.0
    ) -> None:
        self.best_s = float("inf")
        self._backend = backend
        self._images = images
        self._budget = budget
        self._last_s = expected_s
        self._runs = 0
        self._spent_s = 0.0

    @property
    def is_timed(self) -> bool:
        return self._runs > 0

    def burst(self) -> bool:
        """Run for a little, while the budget lasts; returns whether more is needed."""
        spent_s = 0.0
        if self._last_s < BURST_S and self._budget.has():
            first_s = self._run()  # others have been in the caches
            spent_s = self._count(first_s) if first_s >= SLOW_S else 0.0
        while spent_s < BURST_S:
            if not self._budget.has(self._last_s):
                return False
            spent_s += self._count(self._run())
        self._spent_s += spent_s
        return self._spent_s < (MEASURE_S if self._runs >= LEAST_RUNS else MOST_S)

    def _count(self, run_s: float) -> float:
        self._last_s = run_s
        self.best_s = min(self.best_s, run_s)
        self._runs += 1
        return run_s

    def _run(self) -> float:
        started_s = self._budget.clock()
        self._backend.run(self._images)
        return self._budget.clock() - started_s


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
