from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.rate import Pace


@given(
    fps=st.floats(0.5, 60),
    gaps_s=st.lists(st.floats(0.001, 0.5), min_size=5, max_size=200),
)
def test_pace_never_takes_more_than_its_rate(fps: float, gaps_s: list[float]):
    pace, now_s, taken = Pace(fps), 100.0, []
    for gap_s in gaps_s:
        now_s += gap_s
        if pace.is_due(now_s):
            pace.take(now_s)
            taken.append(now_s)

    for first, start_s in enumerate(taken):
        for last in range(first, len(taken)):
            # One at each end of the grid, and one that came late, and one early.
            assert last - first + 1 <= (taken[last] - start_s) * fps + 2.25 + 1e-6


@given(fps=st.sampled_from([1.0, 4.0, 5.0, 7.5]))
def test_pace_reaches_its_rate_though_frames_come_at_another(fps: float):
    pace, taken = Pace(fps), 0
    for frame in range(600):  # 40 s at 15 per second
        if pace.is_due(frame / 15):
            pace.take(frame / 15)
            taken += 1

    assert abs(taken - 40 * fps) <= 2


def test_pace_does_not_catch_up():
    pace = Pace(10.0)
    pace.take(0.0)

    pace.take(7.0)

    assert not pace.is_due(7.05)
    assert pace.is_due(7.09)  # nearly
    assert pace.is_due(7.1)
