from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.rates import Buckets


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def test_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    buckets = Buckets(per_s=2.0, burst=3, clock=clock)

    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now_s += 0.25
    assert buckets.take("a") == 0.25
    clock.now_s += 0.25
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]


def test_waiting_takes_nothing():
    buckets = Buckets(per_s=1.0, burst=1, clock=Clock())

    assert [buckets.wait_s("a") for _ in range(5)] == [0] * 5
    assert buckets.take("a") == 0
    assert buckets.wait_s("a") == 1


def test_rate_of_zero_lets_everything_pass_and_remembers_nobody():
    buckets = Buckets(per_s=0.0, burst=1, clock=Clock())

    assert {buckets.take("a") for _ in range(1000)} == {0}
    assert len(buckets) == 0


def test_memory_is_bounded_and_who_rested_longest_is_forgotten():
    buckets = Buckets(per_s=1.0, burst=1, most=3, clock=Clock())
    for name in "abca":
        buckets.take(name)
    for number in range(100):
        buckets.take("c")
        buckets.take(str(number))
        assert len(buckets) <= 3

    assert buckets.take("c") == 1


@given(
    per_s=st.floats(0.1, 50),
    burst=st.integers(1, 20),
    pauses_s=st.lists(st.floats(0, 2), max_size=60),
)
def test_nobody_gets_more_than_burst_and_rate_allow(per_s, burst, pauses_s):
    clock = Clock()
    buckets = Buckets(per_s=per_s, burst=burst, clock=clock)
    begun_s, taken = clock.now_s, 0
    for pause_s in pauses_s:
        clock.now_s += pause_s
        wait_s = buckets.take("a")
        taken += wait_s == 0
        assert 0 <= wait_s <= 1 / per_s + 1e-9
        assert taken <= burst + per_s * (clock.now_s - begun_s) + 1e-6
