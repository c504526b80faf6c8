from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.pace import MOST_CATCHING_UP_S, Lag, Meter, Opening, Rate


@pytest.mark.parametrize(
    ("stream_fps", "wanted_fps", "passed_fps"),
    [(25, 5, 5), (15, 5, 5), (15, 10, 10), (30, 29.97, 29.97), (5, 15, 5), (0.5, 5, 0.5)],
)
@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_rate_passes_as_many_frames_as_are_wanted(stream_fps, wanted_fps, passed_fps, jitter):
    rate = Rate(wanted_fps)
    count = int(stream_fps * 60)

    wanted = sum(rate.wants(100 + (i + jitter * (i % 3 == 1)) / stream_fps) for i in range(count))

    assert wanted / 60 == pytest.approx(passed_fps, rel=0.05, abs=0.05)


def test_rate_makes_up_for_no_frames_of_a_pause():
    rate = Rate(5)
    assert rate.wants(10.0)

    after = [rate.wants(60 + i / 25) for i in range(25)]

    assert sum(after) in (5, 6)


def test_meter_measures_the_last_seconds():
    meter = Meter()
    assert meter.fps == 0
    for i in range(100):
        meter.count(i / 10)
    assert meter.fps == pytest.approx(10)
    for i in range(200):
        meter.count(10 + i / 20)
    assert meter.fps == pytest.approx(20)


def test_what_comes_before_the_first_key_is_skipped_for_a_while():
    usual, keyless = Opening(), Opening()

    assert [usual.skips(i, is_over=i == 3) for i in range(6)] == [True] * 3 + [False] * 3
    assert [keyless.skips(i, is_over=False) for i in range(10)] == [True] * 8 + [False] * 2


def test_packets_that_waited_are_thrown_away_up_to_a_key():
    lag = Lag()
    for i in range(50):  # 25 a second, in time
        assert not lag.drops(i / 25, i / 25, is_key=i % 25 == 0)

    # Three seconds of silence, then all of them at once, a millisecond each.
    dropped = [lag.drops(5 + i / 1000, (50 + i) / 25, is_key=(50 + i) % 25 == 0) for i in range(75)]
    after = [lag.drops(5.1 + i / 25, 5.1 + i / 25, is_key=i % 25 == 0) for i in range(50)]

    assert dropped[0]
    assert lag.dropped >= 70, "what waited"
    assert not any(after)
    assert lag.dropped == sum(dropped)


def test_stream_that_is_late_for_good_is_not_thrown_away_for_good():
    lag = Lag()
    lag.drops(0.0, 0.0, is_key=True)

    late = [lag.drops(2 + i / 25, i / 25, is_key=i % 25 == 0) for i in range(25 * 10)]

    assert sum(late) <= 25 * (MOST_CATCHING_UP_S + 1)
    assert not any(late[-100:])


@given(
    st.lists(
        st.tuples(st.floats(0, 0.2), st.floats(-1e6, 1e6, allow_nan=False), st.booleans()),
        max_size=200,
    )
)
def test_no_time_stamps_throw_away_a_key_for_longer_than_is_said(packets):
    lag, now_s, dropping_since_s = Lag(), 0.0, None
    for step_s, media_s, is_key in packets:
        now_s += step_s
        if lag.drops(now_s, media_s, is_key=is_key):
            dropping_since_s = now_s if dropping_since_s is None else dropping_since_s
            assert not is_key or now_s - dropping_since_s <= MOST_CATCHING_UP_S
        else:
            dropping_since_s = None
