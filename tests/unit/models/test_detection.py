from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from detectors import encode_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfleet.errors import RecipeInvalid
from fedfleet.models import detection
from fedfleet.models.anchors import BoxRows
from fedfleet.models.card import ModelCard
from fedfleet.models.config import CnnOptions, ModelConfig, SsdTinyOptions
from fedfleet.models.detection import (
    Floats,
    anchors_of,
    centres_of,
    decode_answer,
    decode_boxes,
    overlaps,
    suppress,
)
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.types import InputSpec

ensure_torchvision_ops()
from torchvision.models.detection._utils import BoxCoder  # noqa: E402
from torchvision.ops import batched_nms, box_iou  # noqa: E402

INPUTS = InputSpec(channels=3, height=64, width=96, mean=(0.5,) * 3, std=(0.25,) * 3)
CARD = ModelCard(
    model=ModelConfig(architecture="ssd_tiny", options=SsdTinyOptions()),
    inputs=INPUTS,
    classes=("circle", "square"),
    kind="detection",
)
ANCHORS = len(anchors_of(CARD))


def boxes(count: int, seed: int = 0) -> BoxRows:
    """Boxes inside the image that often overlap."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (count, 2))
    high = low + rng.uniform(0.1, 0.4, (count, 2))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def answer_of(*seen: tuple[int, int, float, tuple[float, ...]]) -> Floats:
    """An answer in which an anchor each names a class with a probability, and a box."""
    answer = np.zeros((ANCHORS, 4 + 1 + 2), np.float32)
    answer[:, 4] = 20.0
    for anchor, index, score, box in seen:
        logits = np.full(3, -20.0)
        logits[0], logits[1 + index] = math.log(1 - score), math.log(score)
        answer[anchor, 4:] = logits
        centre = centres_of(CARD)[anchor : anchor + 1]
        answer[anchor, :4] = encode_boxes(np.array([box], np.float32), centre)[0]
    return answer


def test_anchors_are_corners_of_their_centres() -> None:
    centres, corners = centres_of(CARD), anchors_of(CARD)

    np.testing.assert_allclose((corners[:, :2] + corners[:, 2:]) / 2, centres[:, :2], atol=1e-6)
    np.testing.assert_allclose(corners[:, 2:] - corners[:, :2], centres[:, 2:], atol=1e-6)
    assert not corners.flags.writeable
    assert anchors_of(CARD) is corners


def test_anchors_of_a_classifier_are_refused() -> None:
    card = ModelCard(
        model=ModelConfig(architecture="cnn", options=CnnOptions()),
        inputs=INPUTS,
        classes=("a", "b"),
    )

    with pytest.raises(RecipeInvalid, match=r'"cnn": is no detector; .*ssd_tiny'):
        anchors_of(card)


sides = st.floats(0.015625, 1, width=32)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=sides),
    st.integers(0, ANCHORS - 5),
)
def test_boxes_survive_their_coding(shapes: Any, first: int) -> None:
    centres = centres_of(CARD)[first : first + len(shapes)]
    wanted = np.concatenate([shapes[:, :2], shapes[:, :2] + shapes[:, 2:]], axis=1)

    found = decode_boxes(encode_boxes(wanted, centres), centres)

    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_coding_is_torchvisions() -> None:
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    anchors = torch.from_numpy(anchors_of(CARD).copy())
    wanted = torch.from_numpy(boxes(ANCHORS))
    offsets = torch.randn(ANCHORS, 4, generator=torch.Generator().manual_seed(1)) * 20

    ours = encode_boxes(wanted.numpy(), centres_of(CARD))
    decoded = decode_boxes(offsets.numpy(), centres_of(CARD))

    torch.testing.assert_close(
        torch.from_numpy(ours), coder.encode_single(wanted, anchors), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        torch.from_numpy(decoded), coder.decode_single(offsets, anchors), atol=1e-4, rtol=1e-4
    )


def test_overlaps_are_torchvisions() -> None:
    some, others = boxes(20, 1), boxes(30, 2)
    theirs = box_iou(torch.from_numpy(some), torch.from_numpy(others)).numpy()

    np.testing.assert_allclose(overlaps(some, others), theirs, atol=1e-6)
    empty = np.zeros((1, 4), np.float32)
    assert overlaps(empty, empty)[0, 0] == 0


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 1000), st.sampled_from([0.1, 0.5, 0.9]))
def test_suppression_is_torchvisions(count: int, seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = boxes(count, seed), rng.integers(0, 3, count)
    scores = np.sort(rng.uniform(size=count))[::-1].astype(np.float32)

    theirs = batched_nms(
        torch.from_numpy(rows),
        torch.from_numpy(scores.copy()),
        torch.from_numpy(labels),
        iou,
    )

    assert suppress(rows, labels, iou) == theirs.tolist()


def test_answer_is_decoded_to_what_it_says() -> None:
    box = (0.25, 0.5, 0.5, 0.875)

    found = decode_answer(CARD, answer_of((7, 1, 0.8, box), (30, 0, 0.3, box)))

    assert [one.index for one in found] == [1]
    assert found[0].score == pytest.approx(0.8, abs=1e-5)
    assert found[0].box == pytest.approx(box, abs=1e-5)


def test_answer_names_one_box_once_and_the_surest_first() -> None:
    near, far = (0.2, 0.2, 0.6, 0.6), (0.7, 0.7, 0.9, 0.9)
    answer = answer_of(
        (3, 0, 0.6, (0.21, 0.2, 0.6, 0.6)), (4, 0, 0.9, near), (5, 1, 0.7, near), (6, 0, 0.5, far)
    )

    found = decode_answer(CARD, answer)

    assert [(one.index, round(one.score, 2)) for one in found] == [(0, 0.9), (1, 0.7), (0, 0.5)]
    assert len(decode_answer(CARD, answer, iou=0.99)) == 4
    assert len(decode_answer(CARD, answer, most=2)) == 2
    assert len(decode_answer(CARD, answer, score=0.65)) == 2


def test_answer_of_every_score_lets_so_many_compete_and_loses_none_of_the_surest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    card = replace(CARD, classes=tuple(f"thing {number}" for number in range(90)))
    answer = rng.normal(0, 1, (ANCHORS, 4 + 1 + 90)).astype(np.float32)
    competed: list[int] = []

    def counted(boxes: BoxRows, labels: Any, iou: float) -> list[int]:
        competed.append(len(boxes))
        return suppress(boxes, labels, iou)

    monkeypatch.setattr(detection, "suppress", counted)
    found = decode_answer(card, answer, score=0.0, most=20)
    monkeypatch.setattr(detection, "_MOST_COMPETING", 10**9)
    of_all = decode_answer(card, answer, score=0.0, most=20)

    assert found == of_all
    assert competed == [1000, ANCHORS * 90]


def test_boxes_are_cut_at_the_image() -> None:
    found = decode_answer(CARD, answer_of((0, 0, 0.9, (-0.5, 0.5, 0.5, 1.5))))

    assert found[0].box == pytest.approx((0.0, 0.5, 0.5, 1.0))


def test_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="the answer has shape"):
        decode_answer(CARD, np.zeros((ANCHORS, 6), np.float32))


def test_answer_that_sees_nothing_is_empty() -> None:
    assert decode_answer(CARD, answer_of()) == []
