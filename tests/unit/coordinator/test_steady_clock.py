from __future__ import annotations

from fedfleet_coordinator.steady_clock import DRIFT_S, SteadyClock


class Times:
    """Two clocks."""

    def __init__(self) -> None:
        self.wall_s, self.count_s = 1e9, 5.0

    def pass_by(self, seconds: float, set_by_s: float = 0.0) -> None:
        self.count_s += seconds
        self.wall_s += seconds + set_by_s

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall_s, lambda: self.count_s)


def test_clock_is_steady_since_it_was_set() -> None:
    times = Times()
    clock = times.clock()
    times.pass_by(100.0)
    assert clock.look() == (times.wall_s, 100.0)

    for set_by_s in (1e6, -1e6):
        times.pass_by(50.0, set_by_s)
        assert clock.look() == (times.wall_s, 0.0)
        times.pass_by(7.0)
        assert clock.look() == (times.wall_s, 7.0)


def test_clock_may_be_slewed() -> None:
    times = Times()
    clock = times.clock()
    times.pass_by(86400.0, set_by_s=DRIFT_S / 2)

    assert clock.look() == (times.wall_s, 86400.0)


def test_clock_that_was_set_by_a_little_many_times_is_not_steady() -> None:
    times = Times()
    clock = times.clock()
    for _ in range(3):
        times.pass_by(10.0, set_by_s=DRIFT_S / 2)
        _, steady_s = clock.look()

    assert steady_s == 0.0
