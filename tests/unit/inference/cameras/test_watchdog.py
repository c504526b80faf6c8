from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.watchdog import LONGEST_RETRY_S, Watchdog


def watchdog(*, silence_s: float = 5.0, chance: float = 1.0) -> Watchdog:
    return Watchdog(silence_s=silence_s, slow_retry_s=300.0, chance=lambda: chance)


def test_camera_streams_from_its_first_frame():
    dog = watchdog()
    assert dog.state is CameraState.STOPPED

    dog.connect(100.0)
    assert (dog.state, dog.due_s) == (CameraState.CONNECTING, 115.0)

    dog.stream(101.0)
    assert (dog.state, dog.due_s) == (CameraState.STREAMING, 106.0)


@pytest.mark.parametrize("limit_s", [0.5, 5.0, 200.0])
def test_camera_stalls_when_no_frame_comes_for_too_long(limit_s):
    dog = watchdog(silence_s=limit_s)
    dog.connect(0.0)
    dog.stream(1.0)

    assert not dog.is_overdue(1.0 + limit_s - 0.01)
    assert dog.is_overdue(1.0 + limit_s)
    assert (dog.state, dog.code) == (CameraState.STALLED, CameraCode.STALLED)
    assert not dog.is_overdue(math.inf), "once"


def test_camera_without_a_first_frame_is_given_up_as_timed_out():
    dog = watchdog()
    dog.connect(0.0)

    assert dog.is_overdue(15.0)
    assert (dog.state, dog.code) == (CameraState.STALLED, CameraCode.TIMEOUT)
    dog.stream(15.1)
    assert dog.state is CameraState.STALLED, "too late: its process is being ended"


def test_retries_wait_twice_as_long_each_time_up_to_a_minute():
    dog = watchdog()
    waits = []
    for _ in range(9):
        dog.connect(0.0)
        dog.fail(CameraCode.REFUSED, 0.0)
        waits.append(dog.due_s)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not dog.is_retry_due(59.9)
    assert dog.is_retry_due(60.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_retries_are_spread_over_all_of_their_time(chances):
    left = iter(chances)
    dog = Watchdog(silence_s=5.0, slow_retry_s=300.0, chance=lambda: next(left))
    for number, chance in enumerate(chances):
        dog.fail(CameraCode.TIMEOUT, 0.0)
        assert dog.due_s == min(LONGEST_RETRY_S, 2.0**number) * chance


@pytest.mark.parametrize(("streamed_s", "wait_s"), [(59.0, 16.0), (60.0, 1.0)])
def test_minute_of_frames_forgets_the_failures(streamed_s, wait_s):
    dog = watchdog()
    for _ in range(4):
        dog.fail(CameraCode.REFUSED, 0.0)
    dog.connect(0.0)
    dog.stream(0.0)

    dog.fail(CameraCode.STALLED, streamed_s)

    assert dog.due_s - streamed_s == wait_s


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        (CameraCode.AUTH_FAILED, [300, 300, 300, 300, 300]),
        (CameraCode.NOT_ALLOWED, [300, 300, 300, 300, 300]),
        (CameraCode.NOT_FOUND, [0, 0, 0, 300, 300]),
        (CameraCode.REFUSED, [0, 0, 0, 0, 0]),
    ],
)
def test_camera_that_says_no_is_not_asked_often(code, waits):
    dog = watchdog(chance=0.0)
    found = []
    for _ in waits:
        dog.fail(code, 0.0)
        found.append(dog.due_s)

    assert found == waits


def test_server_that_comes_back_is_asked_a_few_times_for_its_path():
    dog = watchdog(chance=0.0)
    found = []
    codes = [CameraCode.REFUSED] * 4 + [CameraCode.NOT_FOUND] * 4 + [CameraCode.REFUSED]
    for code in [*codes, CameraCode.NOT_FOUND]:
        dog.fail(code, 0.0)
        found.append(dog.due_s)

    assert found == [0] * 7 + [300] + [0, 0]


def test_stopped_camera_has_nothing_due():
    dog = watchdog()
    dog.fail(CameraCode.REFUSED, 0.0)
    dog.stop(CameraCode.ENDED)

    assert (dog.state, dog.code, dog.due_s) == (CameraState.STOPPED, CameraCode.ENDED, math.inf)
    assert not dog.is_retry_due(1e9)
    assert not dog.is_overdue(1e9)
