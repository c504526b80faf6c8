from __future__ import annotations

from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video import write_video

from fedfleet.data.shapes_scene import Mover, lane_movers, moving_scene

SMALL = {"height": 90, "width": 160}


def scene(movers, **options):
    return list(moving_scene(movers, **{"frames": 12, "fps": 4.0, **SMALL, **options}))


def test_scene_is_the_same_for_the_same_arguments():
    first, again, other = (scene(lane_movers(2, **SMALL), noise=2.0, seed=s) for s in (1, 1, 2))

    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one.pixels, same.pixels)
        assert np.array_equal(one.boxes, same.boxes)
    assert not np.array_equal(first[0].pixels, other[0].pixels)
    assert [frame.time_s for frame in first[:3]] == [0.0, 0.25, 0.5]


def test_frames_differ_from_the_empty_scene_in_their_boxes_only():
    movers = lane_movers(3, **SMALL)
    empty = scene([], frames=1)[0].pixels

    for frame in scene(movers):
        assert frame.pixels.shape == (90, 160, 3)
        assert frame.pixels.dtype == np.uint8
        assert sorted(frame.movers) == [0, 1, 2]
        differs = (frame.pixels != empty).any(axis=2)
        for label, left, top, right, bottom in frame.boxes:
            assert label in {mover.label for mover in movers}
            rows = slice(max(0, int(top * 90) - 1), int(bottom * 90) + 2)
            columns = slice(max(0, int(left * 160) - 1), int(right * 160) + 2)
            assert differs[rows, columns].mean() > 0.2
            differs[rows, columns] = False
        assert not differs.any()


@given(st.floats(-2, 3), st.floats(-2, 3), st.floats(0, 100), st.floats(0.05, 0.5))
@settings(max_examples=50)
def test_bouncing_shape_stays_in_the_picture(dx, dy, time_s, size):
    shape = Mover(label=0, x=0.4, y=0.6, dx=dx, dy=dy, size=size).at(time_s, 90, 160)

    left, top, right, bottom = shape.bounds
    assert left >= -1e-6
    assert top >= -1e-6
    assert right <= 160 + 1e-6
    assert bottom <= 90 + 1e-6


def test_bouncing_shape_moves_as_fast_as_it_was_told():
    mover = Mover(label=0, x=0.5, y=0.5, dx=0.1, dy=-0.05)

    before, after = (mover.at(time_s, 720, 1280) for time_s in (0.0, 1.0))

    assert (after.x - before.x) / 1280 == pytest.approx(0.1)
    assert (after.y - before.y) / 720 == pytest.approx(-0.05)


def test_shape_that_leaves_has_a_box_while_half_of_it_is_seen():
    leaving = Mover(label=1, x=0.5, y=0.5, dx=0.2, size=0.3, is_bouncing=False)

    frames = scene([leaving], frames=20)

    seen = [len(frame.boxes) for frame in frames]
    assert seen == sorted(seen, reverse=True)
    gone = seen.index(0)
    assert frames[gone].time_s == pytest.approx(2.5, abs=0.26)  # its centre is at the edge
    widths = [frame.boxes[0, 3] - frame.boxes[0, 1] for frame in frames[:gone]]
    assert widths[-1] < 0.7 * widths[0]
    assert all(frame.boxes[0, 3] <= 1 for frame in frames[:gone])


def test_shape_is_there_from_its_first_to_its_last_second():
    frames = scene([Mover(label=2, x=0.5, y=0.5, from_s=1.0, until_s=2.0)])

    assert [len(frame.boxes) for frame in frames] == [0] * 4 + [1] * 4 + [0] * 4


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_shapes_in_lanes_never_hide_each_other(count, seed):
    movers = lane_movers(count, seed=seed)
    assert len({mover.label for mover in movers}) == count

    for time_s in np.linspace(0, 30, 31):
        bounds = sorted(mover.at(time_s, 720, 1280).bounds[1::2] for mover in movers)
        assert all(above[1] <= below[0] for above, below in pairwise(bounds))


@pytest.mark.parametrize("count", [0, 4])
def test_lanes_that_a_detector_could_not_see_are_refused(count):
    with pytest.raises(ValueError, match="must be from 1 to 3"):
        lane_movers(count)


def test_noise_is_as_strong_as_asked_for_and_new_in_each_frame():
    clean = scene([], frames=1)[0].pixels.astype(float)
    first, second = (frame.pixels for frame in scene([], frames=2, noise=4.0))

    assert (first - clean).std() == pytest.approx(4.0, rel=0.1)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_video_shows_the_scene(tmp_path, codec):
    frames = scene(lane_movers(2, **SMALL), frames=6)
    path = tmp_path / "scene.mp4"

    write_video(path, (frame.pixels for frame in frames), fps=4, codec=codec)

    with av.open(str(path)) as video:
        assert video.streams.video[0].codec_context.name == {"libx264": "h264"}.get(codec, "hevc")
        shown = [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]
    assert len(shown) == 6
    for picture, frame in zip(shown, frames, strict=True):
        assert np.abs(picture.astype(int) - frame.pixels).mean() < 6
