from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.overlap import overlap, rows_of
from fedfleet_inference_api.cameras.seen import Box, Seen
from fedfleet_inference_api.cameras.tracker import MAX_AGE_S, STILL_AGE_S, Tracker

SURE = 0.5


def seen(box: Box, score: float = 0.9, label: str = "cat") -> Seen:
    return Seen(label=label, index=len(label), score=score, box=box)


def square(x: float, y: float, side: float = 0.1) -> Box:
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


@dataclass(frozen=True)
class Thing:
    """One that moves in a lane of its own; ``unseen`` are the frames in which it is missed."""

    x: float
    y: float
    speed: float
    side: float
    unseen: frozenset[int]


@st.composite
def films(draw: st.DrawFn) -> tuple[float, list[Thing]]:
    """Frames per second, and things that are missed for a second at most, once confirmed."""
    fps = draw(st.sampled_from([4.0, 8.0, 15.0]))
    things = []
    for lane in range(draw(st.integers(1, 4))):
        side = draw(st.floats(0.06, 0.12))
        # In a second no more than two of its own sides, and within the frame for 5 s.
        speed = draw(st.floats(-0.12, 0.12))
        holes = draw(st.lists(st.integers(4, 4 + int(fps)), max_size=2))
        unseen = {
            frame for hole in holes for frame in range(hole, hole + draw(st.integers(1, int(fps))))
        }
        start = 0.2 if speed > 0 else 0.8
        things.append(Thing(start, 0.15 + 0.23 * lane, speed, side, frozenset(unseen)))
    return fps, things


@settings(max_examples=40)
@given(films(), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_tracker_keeps_one_id_for_each_thing(film, seed, shuffle):
    fps, things = film
    rng = np.random.default_rng(seed)
    tracker, ids, shuffled = Tracker(SURE), defaultdict(set), Tracker(SURE)
    for frame in range(int(5 * fps)):
        found = []
        for thing in things:
            if frame not in thing.unseen:
                x = thing.x + thing.speed * frame / fps
                jitter = rng.normal(0, 0.03 * thing.side, 4)
                found.append(seen(tuple(np.array(square(x, thing.y, thing.side)) + jitter)))
        tracker.update(found, frame / fps)
        shuffle.shuffle(found)
        shuffled.update(found, frame / fps)

        visible = tracker.visible()
        assert shuffled.visible() == visible  # whatever the order
        assert len({one.track for one in visible}) == len(visible)
        for one in visible:
            lane = round(((one.box[1] + one.box[3]) / 2 - 0.15) / 0.23)
            ids[lane].add(one.track)

    assert len(ids) == len(things)
    assert all(len(tracks) == 1 for tracks in ids.values())
    assert len(set.union(*ids.values())) == len(things)


BOXES = st.builds(square, st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.05, 0.3))
SEEN = st.builds(seen, BOXES, st.sampled_from([0.2, 0.4, 0.6, 0.9]), st.sampled_from(["a", "bb"]))


@given(st.lists(st.lists(SEEN, max_size=6), max_size=12), st.randoms(use_true_random=False))
def test_tracker_does_not_depend_on_the_order_of_what_was_found(looks, shuffle):
    one, other = Tracker(SURE, confirm_hits=1), Tracker(SURE, confirm_hits=1)

    for number, found in enumerate(looks):
        one.update(found, number / 5)
        shuffle.shuffle(found)
        other.update(found, number / 5)

        assert one.visible() == other.visible()
        assert one.alive == other.alive


@given(st.lists(st.lists(SEEN, max_size=6), max_size=12))
def test_tracker_never_gives_an_id_twice(looks):
    tracker, ended, before = Tracker(SURE, confirm_hits=1), set(), frozenset()

    for number, found in enumerate(looks):
        tracker.update(found, 1.3 * number)
        if number % 5 == 4:
            tracker.clear()
        ended |= before - tracker.alive
        assert not ended & tracker.alive
        assert {one.track for one in tracker.visible()} <= tracker.alive
        before = tracker.alive


def followed(box: Box, *, looks: int = 3, fps: float = 5.0) -> Tracker:
    """A tracker that has seen one thing in one place, the last time at (looks - 1) / fps."""
    tracker = Tracker(SURE)
    for number in range(looks):
        tracker.update([seen(box)], number / fps)
    return tracker


def test_track_is_confirmed_after_three_sure_looks():
    tracker = followed(square(0.5, 0.5), looks=2)
    assert not tracker.alive
    assert not tracker.is_settled

    tracker.update([seen(square(0.5, 0.5))], 0.4)

    assert [one.track for one in tracker.visible()] == [1]


def test_doubtful_detections_keep_a_track_alive_but_begin_none():
    tracker = followed(square(0.5, 0.5))
    for number in range(3, 30):
        doubtful = [seen(square(0.5, 0.5), score=0.3), seen(square(0.2, 0.2), score=0.3)]
        tracker.update(doubtful, number / 5)

    (one,) = tracker.visible()
    assert one.track == 1
    assert one.score == 0.9  # the last sure one


@pytest.mark.parametrize("fps", [2.0, 5.0, 30.0])
def test_track_ends_after_seconds_whatever_the_rate(fps: float):
    tracker = followed(square(0.5, 0.5), fps=fps)
    last_s = 2 / fps

    ended_s = next(
        frame / fps
        for frame in range(3, 1000)
        if tracker.update([], frame / fps) or not tracker.alive
    )

    assert MAX_AGE_S < ended_s - last_s <= MAX_AGE_S + 2 / fps


def test_track_survives_one_miss_however_seldom_the_looks_are():
    tracker = followed(square(0.5, 0.5), fps=0.1)

    tracker.update([], 30.0)
    assert tracker.alive == {1}
    assert not tracker.visible()
    assert not tracker.is_settled

    tracker.update([seen(square(0.5, 0.5))], 40.0)
    assert [one.track for one in tracker.visible()] == [1]


def test_track_of_something_fast_is_found_though_its_boxes_never_overlap():
    tracker = Tracker(SURE)
    for number in range(8):  # 1.2 of its own sides from look to look
        tracker.update([seen(square(0.1 + 0.12 * number, 0.5))], number / 5)

    assert tracker.alive == {1}


def test_thing_that_stands_still_stays_while_nothing_moves_there():
    tracker = followed(square(0.5, 0.5), looks=8)
    assert tracker.is_settled
    elsewhere = [(0.0, 0.0, 0.2, 0.2)]

    at_s = 1.4
    while at_s < STILL_AGE_S:
        at_s += 1.0
        tracker.update([], at_s, elsewhere)
        assert [one.track for one in tracker.visible()] == [1]
        assert tracker.is_settled

    tracker.update([], at_s + 1, [(0.4, 0.4, 0.6, 0.6)])
    tracker.update([], at_s + 2, [(0.4, 0.4, 0.6, 0.6)])
    tracker.update([], at_s + 4, elsewhere)
    assert not tracker.alive


def test_thing_that_stood_still_is_not_held_for_ever():
    tracker = followed(square(0.5, 0.5), looks=8)

    for second in range(2, int(STILL_AGE_S) + 4):
        tracker.update([], float(second), [])

    assert not tracker.alive


def test_thing_that_moved_is_not_held():
    tracker = Tracker(SURE)
    for number in range(8):
        tracker.update([seen(square(0.2 + 0.08 * number, 0.5))], number / 5, [])
    assert not tracker.is_settled

    for number in range(8, 22):
        tracker.update([], number / 5, [])

    assert not tracker.alive


def test_tracks_outlast_any_rest_and_do_not_drift_in_it():
    tracker = followed(square(0.5, 0.5), looks=8)
    for second in range(2, 4000):
        tracker.rest(float(second))

    tracker.update([seen(square(0.5, 0.5))], 4000.0)

    assert [(one.track, one.box) for one in tracker.visible()] == [(1, square(0.5, 0.5))]


def test_class_is_what_most_looks_say():
    tracker = Tracker(SURE)
    for number in range(12):
        label = "dog" if number % 3 == 2 else "cat"
        tracker.update([seen(square(0.5, 0.5), label=label)], number / 5)

    assert [(one.track, one.label) for one in tracker.visible()] == [(1, "cat")]


def test_second_box_of_a_thing_begins_no_track():
    tracker = Tracker(SURE)
    for number in range(6):
        both = [seen(square(0.5, 0.5), 0.9, "cat"), seen(square(0.505, 0.5), 0.6, "dog")]
        tracker.update(both, number / 5)

    assert tracker.alive == {1}


def test_two_that_meet_and_part_keep_their_ids():
    tracker = Tracker(SURE)
    sides = {}
    for number in range(26):
        left, right = 0.2 + 0.025 * number, 0.8 - 0.025 * number
        tracker.update(
            [seen(square(left, 0.45, 0.12)), seen(square(right, 0.55, 0.12))], number / 10
        )
        sides[number] = {one.track: one.box for one in tracker.visible()}

    assert tracker.alive == {1, 2}
    for track in (1, 2):
        row = {round(sides[number][track][1], 2) for number in (5, 25)}
        assert len(row) == 1  # each stayed in its row


def test_clock_that_is_set_back_ends_nothing():
    tracker = followed(square(0.5, 0.5), looks=8)

    for number in range(5):
        tracker.update([seen(square(0.5, 0.5))], -3600 + number / 5)

    assert tracker.alive == {1}


def test_visible_box_is_where_it_was_seen():
    tracker = followed(square(0.5, 0.5))

    (one,) = tracker.visible()

    assert overlap(rows_of([one.box]), rows_of([square(0.5, 0.5)]))[0, 0] == 1
