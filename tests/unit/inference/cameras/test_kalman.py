from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.kalman import MOST_GROWTH, BoxFilter


def box_at(x: float, side: float = 0.1) -> tuple[float, float, float, float]:
    return x - side / 2, 0.4, x + side / 2, 0.6


@given(st.floats(-0.3, 0.3), st.sampled_from([3.0, 10.0, 30.0]))
def test_filter_learns_a_constant_velocity(speed: float, fps: float):
    followed = BoxFilter(box_at(0.5), 0.0)
    for frame in range(1, int(3 * fps)):
        followed.predict(frame / fps)
        followed.correct(box_at(0.5 + speed * frame / fps))

    followed.predict(followed.at_s + 1.0)

    assert np.allclose(followed.box, box_at(0.5 + speed * followed.at_s), atol=0.01)


def test_filter_of_something_seen_once_stays():
    followed = BoxFilter(box_at(0.5), 0.0)

    followed.predict(5.0)

    assert np.allclose(followed.box, box_at(0.5))


def test_filter_does_not_let_a_box_grow_without_end():
    followed = BoxFilter(box_at(0.5, 0.1), 0.0)
    for frame in range(1, 6):
        followed.predict(frame / 5)
        followed.correct(box_at(0.5, 0.1 + 0.02 * frame))

    followed.predict(100.0)

    left, _, right, _ = followed.box
    assert right - left <= MOST_GROWTH * 0.2 + 1e-9


def test_filter_that_rests_goes_on_from_its_place():
    followed = BoxFilter(box_at(0.2), 0.0)
    for frame in range(1, 11):
        followed.predict(frame / 5)
        followed.correct(box_at(0.2 + 0.04 * frame))
    place = followed.box

    followed.rest(60.0)
    followed.predict(61.0)

    assert followed.box == place


def test_filter_ignores_a_time_that_is_not_later():
    followed = BoxFilter(box_at(0.5), 100.0)

    followed.predict(50.0)

    assert followed.at_s == 100.0
