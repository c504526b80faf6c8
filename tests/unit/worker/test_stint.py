from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import OutOfMemory
from fedfleet_worker.guest import Condition, Limits
from fedfleet_worker.memory import MemoryLimit
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.pausing import Pausing
from fedfleet_worker.stint import MARGIN_RATIO, Stint, cut_at_s

FREE = Pausing(Limits(), WorkerMetrics())
TIMES = st.floats(0, 1e5)


class Hot:
    """A device that is too warm."""

    def read(self) -> Condition:
        return Condition(at_s=0, temperature_celsius=90)


async def resting() -> Pausing:
    pausing = Pausing(Limits(temperature_celsius=70), WorkerMetrics(), Hot())
    await pausing.look()
    return pausing


@given(TIMES, st.floats(0.001, 1e5), TIMES, TIMES)
def test_cut_leaves_the_update_its_time_and_a_margin_of_a_tenth_at_most(
    now_s: float, deadline_s: float, margin_s: float, after_s: float
) -> None:
    left_s = cut_at_s(now_s + deadline_s, deadline_s, margin_s, after_s) - now_s

    assert left_s <= deadline_s - after_s + 1e-6
    assert left_s >= (1 - MARGIN_RATIO) * deadline_s - after_s - 1e-6
    assert left_s >= deadline_s - margin_s - after_s - 1e-6


def test_cut_never_comes_without_a_deadline() -> None:
    stint = Stint(FREE, MemoryLimit(), lambda: False, cut_at_s(math.inf, 0.0, 2.0, 5.0))

    assert not stint.cancelled()
    assert not stint.is_over()


def test_stint_is_over_when_its_time_is() -> None:
    now = [0.0]
    stint = Stint(FREE, MemoryLimit(), lambda: False, cut_s=10.0, clock=lambda: now[0])

    def at(now_s: float) -> tuple[bool, bool]:
        now[0] = now_s
        return stint.cancelled(), stint.is_over()

    assert [at(now_s) for now_s in (1.0, 9.9)] == [(False, False)] * 2
    assert [at(now_s) for now_s in (10.0, 11.0)] == [(False, True)] * 2


def test_stint_ends_for_its_memory() -> None:
    with pytest.raises(OutOfMemory):
        Stint(FREE, MemoryLimit(1), lambda: False).cancelled()


async def test_stint_that_rests_ends_when_its_time_comes() -> None:
    times = iter([0.0, 0.0, 5.0, 10.0, 10.0, 10.0, 10.0])
    stint = Stint(await resting(), MemoryLimit(), lambda: False, 10.0, clock=lambda: next(times))

    assert not stint.cancelled()
    assert stint.is_over()


async def test_stint_that_cannot_be_cut_rests_on_until_it_is_cancelled() -> None:
    asked = iter([False, False, False, False, True, True, True])
    stint = Stint(await resting(), MemoryLimit(), lambda: next(asked), 10.0, clock=lambda: 11.0)

    assert not stint.cancelled()  # one step after its time: nobody asked whether it is over
    assert stint.cancelled()
    assert next(asked)


def test_stint_knows_how_long_the_work_after_its_last_step_took() -> None:
    now = [0.0]
    stint = Stint(FREE, MemoryLimit(), lambda: False, clock=lambda: now[0])
    for now[0] in (3.0, 5.0):
        stint.cancelled()
    now[0] = 7.5

    assert stint.since_last_step_s == 2.5
