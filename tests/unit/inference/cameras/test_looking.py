from __future__ import annotations

import numpy as np
import pytest
from detectors import CLASSIFIER, DETECTOR, detector_answer, servable

from fedfleet_inference_api.cameras.looking import look_at
from fedfleet_inference_api.cameras.motion import Motion
from fedfleet_inference_api.cameras.overlap import FRAME
from fedfleet_inference_api.cameras.seen import Frame

PIXELS = np.random.default_rng(0).integers(0, 255, (72, 128, 3), np.uint8)
FRAME_1 = Frame(camera="door", sequence=1, at_s=10.0, media_s=None, pixels=PIXELS)
MOVING = Motion(((0.5, 0.5, 0.7, 0.9), (0.1, 0.1, 0.2, 0.2)), 0.1, False)


def test_detector_looks_at_the_whole_frame():
    look = look_at(FRAME_1, MOVING, servable(DETECTOR))

    assert look.is_detection
    assert look.region == FRAME
    assert look.image.shape == (3, 128, 128)


def test_detections_are_the_things_with_their_scores_surest_first():
    look = look_at(FRAME_1, MOVING, servable(DETECTOR))
    things = [(2, 0.6, (0.6, 0.1, 0.8, 0.4)), (0, 0.9, (0.1, 0.2, 0.4, 0.6))]

    found = look.detections(detector_answer(DETECTOR, things), 0.5)

    assert [one.label for one in found] == ["circle", "triangle"]
    assert [one.score for one in found] == pytest.approx([0.9, 0.6], abs=1e-3)
    assert np.allclose([one.box for one in found], [things[1][2], things[0][2]], atol=1e-3)
    assert {one.track for one in found} == {0}


@pytest.mark.parametrize(("score", "kept"), [(0.9, 1), (0.5, 2), (0.2, 2), (0.05, 3)])
def test_doubtful_detections_are_kept_down_to_a_share_of_the_score(score: float, kept: int):
    look = look_at(FRAME_1, None, servable(DETECTOR))
    places = ((0.1, 0.1, 0.3, 0.3), (0.6, 0.1, 0.8, 0.3), (0.1, 0.6, 0.3, 0.8))
    things = [(0, share, box) for share, box in zip((0.95, 0.3, 0.07), places, strict=True)]

    assert len(look.detections(detector_answer(DETECTOR, things), score)) == kept


def test_classifier_looks_at_the_largest_moving_region_with_a_margin():
    look = look_at(FRAME_1, MOVING, servable(CLASSIFIER))

    assert not look.is_detection
    assert np.allclose(look.region, (0.46, 0.42, 0.74, 0.98))
    assert look.image.shape == (3, 16, 16)


@pytest.mark.parametrize("motion", [None, Motion((), 0.0, False), Motion((), 1.0, True)])
def test_classifier_looks_at_the_frame_where_nothing_is_known_to_move(motion: Motion | None):
    assert look_at(FRAME_1, motion, servable(CLASSIFIER)).region == FRAME


def test_classes_are_probabilities_most_probable_first():
    look = look_at(FRAME_1, MOVING, servable(CLASSIFIER))

    found = look.classes(np.array([1.0, 3.0, 1.0], np.float32) + 500)

    assert [one.label for one in found] == ["square", "circle", "triangle"]
    assert sum(one.score for one in found) == pytest.approx(1)
    assert found[0].score == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert {one.box for one in found} == {look.region}
