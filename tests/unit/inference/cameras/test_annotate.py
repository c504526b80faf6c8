from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedfleet_inference_api.cameras.annotate import COLORS, annotate, raw
from fedfleet_inference_api.cameras.seen import Frame, Seen, View

MODEL = {"name": "shapes", "version": 12, "round": 12, "digest": "0" * 64}
GREY = 120


def view(width: int = 320, height: int = 240, **fields: Any) -> View:
    pixels = np.full((height, width, 3), GREY, np.uint8)
    frame = Frame(camera="yard", sequence=1, at_s=1.76e9, media_s=None, pixels=pixels)
    return View(frame=frame, model=MODEL, **fields)


def opened(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB")).astype(int)


def changed(jpeg: bytes, other: bytes) -> np.ndarray:
    """Where two pictures differ by more than JPEG's own error, shape (H, W)."""
    return np.abs(opened(jpeg) - opened(other)).max(axis=2) > 40


def test_box_is_drawn_in_the_colour_of_its_class_where_it_is():
    one = Seen(label="circle", index=1, score=0.9, box=(0.25, 0.25, 0.75, 0.75))

    difference = changed(annotate(view(seen=(one,)), quality=95), annotate(view(), quality=95))
    picture = opened(annotate(view(seen=(one,)), quality=95))

    assert difference[179, 82:238].mean() > 0.9  # the lower edge
    assert not difference[100:170, 90:230].any()  # nothing inside
    assert not difference[200:, :].any()
    assert np.abs(picture[179, 160] - COLORS[1]).max() < 60


def test_label_carries_score_and_track_and_is_moved_into_the_picture():
    at_the_edge = Seen(label="a long label", index=0, score=0.5, box=(0.95, 0.0, 1.0, 0.2), track=4)
    without = replace(at_the_edge, track=0)

    picture = annotate(view(seen=(at_the_edge,)))

    assert changed(picture, annotate(view()))[0:14, 150:250].any()
    assert changed(picture, annotate(view(seen=(without,))))[0:16].any()


def test_caption_names_camera_time_and_version_and_a_classification_its_best():
    plain = annotate(view())
    other_version = annotate(replace(view(), model={**MODEL, "version": 13}))
    without_model = annotate(replace(view(), model={}))
    classified = annotate(view(top5=(("cat", 0.75), ("dog", 0.2))))

    for other in (other_version, without_model):
        assert changed(plain, other)[220:].any()
        assert not changed(plain, other)[:200].any()
    assert changed(plain, classified)[200:225].any()


def test_zones_and_moving_regions_are_drawn():
    zone = [("door", ((0.1, 0.1), (0.5, 0.1), (0.5, 0.5)))]

    with_zone = changed(annotate(view(), zones=zone), annotate(view()))
    with_motion = changed(annotate(view(moving=((0.2, 0.2, 0.6, 0.6),))), annotate(view()))

    assert with_zone[24, 40:150].mean() > 0.8
    assert 0.2 < with_motion[48, 64:190].mean() < 0.8  # dashes


@pytest.mark.parametrize(
    ("width", "size"), [(None, (320, 240)), (160, (160, 120)), (999, (320, 240))]
)
def test_width_scales_down_and_never_up(width, size):
    for jpeg in (annotate(view(), width=width), raw(view(), width=width)):
        assert opened(jpeg).shape[1::-1] == size


def test_raw_is_the_frame_and_nothing_else():
    one = Seen(label="circle", index=0, score=0.9, box=(0.1, 0.1, 0.9, 0.9))

    assert (np.abs(opened(raw(view(seen=(one,)))) - GREY) <= 2).all()


def test_frame_is_left_as_it_was():
    shown = view(seen=(Seen(label="x", index=0, score=1.0, box=(0, 0, 1, 1)),))
    before = shown.frame.pixels.copy()

    annotate(shown)

    assert (shown.frame.pixels == before).all()


shares = st.floats(-0.5, 1.5)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    label=st.text(max_size=60),
    box=st.tuples(shares, shares, shares, shares),
    score=st.floats(allow_nan=True),
    corners=st.lists(st.tuples(shares, shares), max_size=5),
)
def test_whatever_a_model_answers_makes_a_picture(width, height, label, box, score, corners):
    one = Seen(label=label, index=9, score=score, box=box, track=1, zones=(label,))
    shown = view(width, height, seen=(one,), moving=(box,), top5=((label, score),))

    assert opened(annotate(shown, zones=[(label, corners)])).shape == (height, width, 3)


def test_text_on_a_large_picture_can_be_read_where_it_is_shown_small():
    pixels = np.full((720, 1280, 3), GREY, np.uint8)
    large = replace(view(), frame=replace(view().frame, pixels=pixels))
    one = Seen(label="circle", index=0, score=0.9, box=(0.1, 0.5, 0.9, 0.8))

    rows = changed(annotate(replace(large, seen=(one,))), annotate(large))[:350].any(axis=1)

    assert rows.sum() * 290 / 1280 > 9, "in a tile of 290 pixels"
