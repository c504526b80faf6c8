from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.pace import (
    JUMP_S,
    MOST_CATCHING_UP_S,
    MOST_OPENING_S,
    Lag,
    Meter,
    Opening,
    Playback,
    Rate,
)


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
    for skips, word in (("skips_packet", "is_key"), ("skips_frame", "is_whole")):
        usual, keyless = Opening(), Opening()
        found = [getattr(usual, skips)(i, **{word: i == 3}) for i in range(6)]
        assert found == [True] * 3 + [False] * 3
        found = [getattr(keyless, skips)(i, **{word: False}) for i in range(10)]
        assert found == [True] * 8 + [False] * 2


def test_stream_with_neither_keys_nor_whole_frames_has_a_picture_before_it_is_given_up():
    opening = Opening()
    shown = [
        now_s
        for now_s in range(30)
        if not opening.skips_packet(now_s, is_key=False)
        and not opening.skips_frame(now_s, is_whole=False)
    ]

    assert shown[0] == MOST_OPENING_S
    assert shown == list(range(shown[0], 30))


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


@pytest.mark.parametrize("slow", [0.0, 0.0002, 0.004, 0.009])
def test_camera_whose_clock_goes_slow_is_not_taken_for_late(slow):
    lag = Lag()

    for i in range(25 * 600):  # a drift of up to five seconds
        now_s = 1000 + i / 25
        assert not lag.drops(now_s, now_s * (1 - slow), is_key=i % 25 == 0), f"after {i / 25} s"


def test_file_is_played_in_its_own_time_with_its_gaps():
    playback, now_s, shown = Playback(0.2, 4.0), 100.0, []
    for media_s in [5.0, 5.1, 5.2, 8.2, 8.3]:  # a gap of three seconds
        now_s += 0.01  # what decoding takes
        now_s += playback.wait_s(now_s, media_s)
        shown.append(now_s - 100.01)

    assert shown == pytest.approx([0.0, 0.1, 0.2, 3.2, 3.3])
    assert playback.rest_s(now_s) == pytest.approx(0.1), "as long as the frame before it"


@pytest.mark.parametrize("jump_s", [-2.0, -1e9, JUMP_S + 0.1, 1e9])
def test_file_whose_time_jumps_is_played_on_at_once(jump_s):
    playback = Playback(0.2, JUMP_S)
    playback.wait_s(100.0, 5.0)

    assert playback.wait_s(100.1, 5.0 + jump_s) == pytest.approx(0, abs=1e-6)
    assert playback.wait_s(100.1, 5.1 + jump_s) == pytest.approx(0.1, abs=1e-6)


def test_file_that_is_decoded_too_slowly_is_not_hurried_through():
    playback, now_s, waits = Playback(0.2, 4.0), 100.0, []
    for i in range(50):
        waits.append(playback.wait_s(now_s, i * 0.1))
        # Ten seconds behind, then as fast as it can.
        now_s += waits[-1] + (0.5 if i < 25 else 0.01)

    assert waits[:25] == [0] * 25
    assert sum(waits[25:]) > 1.0, "two and a half seconds of video"


@pytest.mark.parametrize("media_s", [0.0, None])
def test_file_of_one_frame_shows_it_for_as_long_as_one_is_due(media_s):
    playback, now_s = Playback(0.2, 4.0), 100.0
    now_s += playback.wait_s(now_s, media_s)
    now_s += playback.rest_s(now_s)

    assert now_s == pytest.approx(100.2)


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
