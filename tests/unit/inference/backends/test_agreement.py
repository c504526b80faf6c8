from __future__ import annotations

import numpy as np
import pytest

from fedfleet_inference_api.backends.agreement import TOLERANCES, Tolerance, disagreement

LOOSE = Tolerance(0.05, 0.1, 1.0)
LOGITS = np.array([[4.0, 1.0, 0.0], [0.0, 0.02, -3.0]], np.float32)


def test_answers_that_are_near_agree():
    assert disagreement(LOGITS, LOGITS + np.float32(0.01), LOOSE) == ""
    assert disagreement(LOGITS, LOGITS.copy(), TOLERANCES["onnx"]) == ""


def test_another_class_agrees_only_where_both_are_as_probable():
    swapped = LOGITS.copy()
    swapped[1, :2] = [0.02, 0.0]
    assert disagreement(LOGITS, swapped, LOOSE) == ""

    swapped[0, :2] = [1.0, 4.0]
    assert "probabilities are off by up to 0.8" in disagreement(LOGITS, swapped, LOOSE)


def test_probabilities_beyond_the_tolerance_disagree():
    other = LOGITS.copy()
    other[0, 0] = 2.0

    assert "over 0.001" in disagreement(LOGITS, other, TOLERANCES["onnx"])


FLAT = np.random.default_rng(1).normal(0, 1e-8, (8, 10)).astype(np.float32)
OTHER = np.random.default_rng(2).normal(0, 1e-8, (8, 10)).astype(np.float32)


@pytest.mark.parametrize("name", TOLERANCES)
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e5])
def test_answers_of_another_model_disagree_however_flat_they_are(name, scale):
    """As those at the start of a run: all classes are as good as equally probable."""
    want, tolerance = FLAT * np.float32(scale), TOLERANCES[name]

    assert disagreement(want, want * np.float32(1 + 1e-5), tolerance) == ""
    moved = want + np.float32(1e-7 * scale)  # the same probabilities
    assert disagreement(want, moved, tolerance) == ""
    for got in (OTHER * np.float32(scale), np.zeros_like(want), -want):
        assert "logits are off" in disagreement(want, got, tolerance)


def test_logits_that_are_all_equal_agree_with_themselves():
    equal = np.full((2, 7), 0.1, np.float32)

    assert disagreement(equal, equal.copy(), TOLERANCES["onnx"]) == ""


def test_boxes_of_another_model_disagree_however_near_their_anchors_they_are():
    want = np.zeros((2, 6, 4 + 3), np.float32)
    want[..., :4] = FLAT[0, :4]

    assert disagreement(want, want.copy(), TOLERANCES["onnx"]) == ""
    assert "boxes are off" in disagreement(want, np.zeros_like(want), TOLERANCES["onnx"])


def test_what_is_not_finite_or_of_another_form_disagrees():
    assert "not finite" in disagreement(LOGITS, np.full_like(LOGITS, np.nan), LOOSE)
    assert "shape (1, 3)" in disagreement(LOGITS, LOGITS[:1], LOOSE)
    assert "float64" in disagreement(LOGITS, LOGITS.astype(np.float64), LOOSE)


def test_answers_of_a_detector_are_compared_by_boxes_and_by_classes():
    answers = np.zeros((1, 6, 4 + 3), np.float32)
    assert disagreement(answers, answers.copy(), LOOSE) == ""

    moved = answers.copy()
    moved[0, 2, 1] = 0.3
    assert "boxes are off by up to 0.3" in disagreement(answers, moved, LOOSE)

    named = answers.copy()
    named[0, 5, 6] = 3.0
    assert "probabilities are off" in disagreement(answers, named, LOOSE)
