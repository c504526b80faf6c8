from itertools import pairwise

import pytest

from fedfleet.errors import TrainingFailed
from fedfleet.training.watch import Watch


def test_watch_reports_at_most_ten_times_a_second_and_at_the_end() -> None:
    now_s = 0.0
    seen: list[tuple[float, float]] = []
    watch = Watch(lambda ratio: seen.append((now_s, ratio)), clock=lambda: now_s)

    for step in range(1, 1001):
        now_s += 0.002
        watch.after_step(step, 1000)

    ratios = [ratio for _, ratio in seen]
    assert ratios == sorted(ratios)
    assert ratios[-1] == 1.0
    assert len(seen) <= 2.0 * 10 + 1
    times = [at for at, _ in seen[:-1]]
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in pairwise(times))


def test_watch_stops_when_cancelled() -> None:
    answers = iter([False, True])
    watch = Watch(cancelled=lambda: next(answers))

    watch.after_step(1, 5)
    with pytest.raises(TrainingFailed, match="cancelled after step 2 of 5") as caught:
        watch.after_step(2, 5)

    assert caught.value.code == "TRAINING_FAILED"


def test_watch_cuts_after_any_step_but_the_last() -> None:
    asked: list[int] = []

    def until() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    watch = Watch(until=until)
    cuts = []
    for step in range(1, 4):
        watch.after_step(step, 4)
        cuts.append(watch.is_cut)

    assert cuts == [False, False, True]

    whole = Watch(until=lambda: True)
    whole.after_step(4, 4)
    assert not whole.is_cut


def test_watch_asks_whether_to_cut_only_for_work_that_is_wanted() -> None:
    watch = Watch(cancelled=lambda: True, until=lambda: True)

    with pytest.raises(TrainingFailed, match="cancelled"):
        watch.after_step(1, 5)
    assert not watch.is_cut
