from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import CARD

from fedfleet.models.detection import Detection
from fedfleet_inference_api.agreement import agreement, box_agreement

LEFT = Detection(0, 0.9, (0.0, 0.0, 0.5, 1.0))
HALF = Detection(0, 0.8, (0.0, 0.0, 0.25, 1.0))  # half of LEFT, so their overlap is 1/2
RIGHT = Detection(0, 0.9, (0.5, 0.0, 1.0, 1.0))
OTHER = Detection(1, 0.9, (0.0, 0.0, 0.5, 1.0))

SIDES = st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.6, 1), st.floats(0.6, 1))
SEEN = st.lists(st.builds(Detection, st.integers(0, 2), st.just(0.5), SIDES), max_size=5)


def test_classifiers_agree_where_their_first_answer_is_the_same():
    one, other = np.eye(10, dtype=np.float32)[[3, 4]]

    assert agreement(CARD, one, one * 0.1) == 1.0
    assert agreement(CARD, one, other) == 0.0


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([], [], 1.0),
        ([LEFT], [], 0.0),
        ([LEFT], [LEFT], 1.0),
        ([LEFT], [HALF], 0.5),
        ([LEFT], [RIGHT], 0.0),
        ([LEFT], [OTHER], 0.0),
        ([LEFT, RIGHT], [LEFT], 2 / 3),
    ],
)
def test_detectors_agree_as_far_as_their_boxes_overlap(left, right, expected):
    assert box_agreement(left, right) == pytest.approx(expected)


@given(SEEN, SEEN)
def test_agreement_is_a_share_and_the_same_from_both_sides(left, right):
    found = box_agreement(left, right)

    assert 0 <= found <= 1
    assert found == pytest.approx(box_agreement(right, left))
    assert box_agreement(left, left) == pytest.approx(1.0)
