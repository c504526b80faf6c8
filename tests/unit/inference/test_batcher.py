"""Who is computed together, and in which order."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import Unavailable
from fedfleet_inference_api.batcher import LANES, Batcher, Job, Lane

IMAGE = np.zeros((1, 2, 2), np.uint8)
# Stand for versions: the batcher only asks whether two are the same.
FIRST: Any = "version 1"
SECOND: Any = "version 2"
NO_LIMIT: dict[Lane, int] = dict.fromkeys(LANES, 1000)


def job(servable: Any = FIRST, lane: Lane = "callers", **more: Any) -> Job:
    return Job(servable, IMAGE, lane, 0.0, concurrent.futures.Future(), **more)


def filled(*jobs: Job, max_batch: int = 4) -> Batcher:
    batcher = Batcher(max_batch, NO_LIMIT)
    for one in jobs:
        batcher.put(one)
    return batcher


def test_batcher_takes_what_waits_in_order_up_to_a_full_batch():
    jobs = [job() for _ in range(6)]
    batcher = filled(*jobs)

    assert batcher.take(0.0).batch == tuple(jobs[:4])
    assert batcher.take(0.0).batch == tuple(jobs[4:])
    assert batcher.take(0.0).batch == ()


def test_batcher_never_mixes_versions_and_lets_them_take_turns():
    backlog = [job(FIRST) for _ in range(10)]
    other = job(SECOND)
    batcher = filled(*backlog, other)

    assert [batcher.take(0.0).batch for _ in range(4)] == [
        tuple(backlog[:4]),
        (other,),
        tuple(backlog[4:8]),
        tuple(backlog[8:]),
    ]


def test_batcher_lets_cameras_and_callers_take_turns():
    callers = [job() for _ in range(8)]
    cameras = [job(lane="cameras") for _ in range(2)]
    batcher = filled(*callers, *cameras)

    lanes = [[one.lane for one in batcher.take(0.0).batch] for _ in range(3)]
    assert lanes == [["callers"] * 4, ["cameras"] * 2, ["callers"] * 4]


def test_batcher_takes_the_shadow_when_nobody_else_waits():
    shadow, caller = job(SECOND, "shadow"), job()
    batcher = filled(shadow, caller)

    assert batcher.take(0.0).batch == (caller,)
    assert batcher.take(0.0).batch == (shadow,)


def test_batcher_takes_one_image_of_the_shadow_so_that_nobody_waits_for_more():
    shadows = [job(SECOND, "shadow") for _ in range(3)]
    batcher = filled(*shadows)

    assert batcher.take(0.0).batch == (shadows[0],)
    caller = job()
    batcher.put(caller)
    assert [batcher.take(0.0).batch for _ in range(3)] == [(caller,), *zip(shadows[1:])]


def test_batcher_bounds_each_lane_by_itself():
    batcher = Batcher(4, {"callers": 2, "cameras": 1, "shadow": 1})
    batcher.put(job(lane="cameras"))
    with pytest.raises(Unavailable, match="1 images of cameras"):
        batcher.put(job(lane="cameras"))

    batcher.put(job())
    batcher.put(job(SECOND))
    with pytest.raises(Unavailable):
        batcher.put(job(SECOND))

    batcher.take(0.0)
    batcher.take(0.0)
    batcher.put(job())


def test_batcher_leaves_out_who_is_gone_and_whose_deadline_passed():
    left, wanted = job(is_gone=lambda: True), job(deadline_s=6.0)
    late, cancelled = job(deadline_s=5.0), job()
    cancelled.future.cancel()
    batcher = filled(left, late, cancelled, wanted)

    taken = batcher.take(5.0)

    assert (taken.batch, taken.late, taken.gone) == ((wanted,), (late,), (left, cancelled))
    assert len(batcher) == 0


def test_batcher_fills_the_batch_past_those_that_are_left_out():
    gone = [job(is_gone=lambda: True) for _ in range(9)]
    wanted = [job() for _ in range(5)]
    batcher = filled(*gone, *wanted)

    assert batcher.take(0.0).batch == tuple(wanted[:4])


def test_batcher_goes_on_to_the_next_version_where_nobody_is_left_of_one():
    wanted = job(SECOND)
    batcher = filled(job(is_gone=lambda: True), wanted)

    assert batcher.take(0.0).batch == (wanted,)


def test_batcher_does_not_take_a_future_that_is_cancelled_after_it_was_taken():
    one = job()
    batcher = filled(one)

    assert batcher.take(0.0).batch == (one,)
    assert not one.future.cancel()


def test_batcher_that_is_cleared_gives_everything_back():
    jobs = [job(), job(SECOND), job(lane="cameras"), job(lane="shadow")]
    batcher = filled(*jobs)

    assert set(map(id, batcher.clear())) == set(map(id, jobs))
    assert len(batcher) == 0
    assert batcher.take(0.0).batch == ()


@given(
    puts=st.lists(st.tuples(st.sampled_from([FIRST, SECOND]), st.sampled_from(LANES)), max_size=60),
    max_batch=st.integers(1, 9),
)
def test_batcher_gives_every_job_once_in_order_of_its_queue(puts, max_batch):
    jobs = [job(servable, lane) for servable, lane in puts]
    batcher = filled(*jobs, max_batch=max_batch)

    batches = []
    while batch := batcher.take(0.0).batch:
        batches.append(batch)
        assert len(batch) <= max_batch
        assert len({(one.servable, one.lane) for one in batch}) == 1

    flat = [one for batch in batches for one in batch]
    assert len(flat) == len(jobs)
    for key in {(one.servable, one.lane) for one in jobs}:
        mine = [one for one in flat if (one.servable, one.lane) == key]
        assert mine == [one for one in jobs if (one.servable, one.lane) == key]
