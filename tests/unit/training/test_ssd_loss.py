from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedfleet.data.boxes import ignored_label
from fedfleet.models.anchors import GRIDS
from fedfleet.models.torchvision_ops import ensure_torchvision_ops
from fedfleet.training.ssd_loss import Matched, encode, match, overlaps, ssd_loss

ensure_torchvision_ops()
from torchvision.models.detection._utils import BoxCoder, SSDMatcher  # noqa: E402
from torchvision.models.detection.ssd import SSD  # noqa: E402
from torchvision.ops import box_iou  # noqa: E402

CENTRES = torch.from_numpy(GRIDS["ssd_tiny"].anchors(64, 64))
CORNERS = torch.cat(
    [CENTRES[:, :2] - CENTRES[:, 2:] / 2, CENTRES[:, :2] + CENTRES[:, 2:] / 2], dim=1
)
CLASSES = 3


def some_boxes(images: int, most: int, seed: int) -> Tensor:
    """Padded rows of (label, left, top, right, bottom); some images have none."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (images, most, 2))
    high = low + rng.uniform(0.05, 0.3, (images, most, 2))
    labels = rng.integers(0, CLASSES, (images, most, 1))
    kept = np.arange(most) < rng.integers(0, most + 1, (images, 1))
    boxes = np.concatenate([labels, low, high], axis=2)
    boxes[~kept] = (-1, 0, 0, 0, 0)
    return torch.from_numpy(boxes.astype(np.float32))


def their_matches(boxes: Tensor) -> list[Tensor]:
    """torchvision's way, image by image (SSD.forward)."""
    matcher = SSDMatcher(0.5)
    found = []
    for rows in boxes:
        real = rows[rows[:, 0] >= 0]
        none = torch.full((len(CORNERS),), -1)
        found.append(matcher(box_iou(real[:, 1:], CORNERS)) if len(real) else none)
    return found


def their_loss(answers: Tensor, boxes: Tensor) -> Any:
    ssd = SimpleNamespace(box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3)
    real = [rows[rows[:, 0] >= 0] for rows in boxes]
    targets = [{"boxes": rows[:, 1:], "labels": rows[:, 0].long() + 1} for rows in real]
    outputs = {"bbox_regression": answers[..., :4], "cls_logits": answers[..., 4:]}
    anchors = [CORNERS] * len(boxes)
    return SSD.compute_loss(ssd, targets, outputs, anchors, their_matches(boxes))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 10_000))
def test_matching_is_torchvisions(images: int, most: int, seed: int) -> None:
    boxes = some_boxes(images, most, seed)

    matched = match(boxes, CORNERS)

    for image, theirs in enumerate(their_matches(boxes)):
        want = (
            torch.where(theirs >= 0, boxes[image, theirs.clamp(min=0), 0].long() + 1, 0)
            if (most)
            else torch.zeros_like(theirs)
        )
        assert torch.equal(matched.classes_BA[image], want)
        chosen = theirs[theirs >= 0]
        assert torch.equal(matched.boxes_BA4[image][theirs >= 0], boxes[image, chosen, 1:])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))
def test_loss_and_gradient_are_torchvisions(images: int, most: int, seed: int) -> None:
    boxes = some_boxes(images, most, seed)
    generator = torch.Generator().manual_seed(seed)
    answers = torch.randn(images, len(CORNERS), 5 + CLASSES, generator=generator)
    ours, theirs = answers.clone().requires_grad_(), answers.clone().requires_grad_()

    loss = ssd_loss(ours, match(boxes, CORNERS), CENTRES).mean()
    loss.backward()
    parts = their_loss(theirs, boxes)
    sum(parts.values()).backward()

    torch.testing.assert_close(loss, sum(parts.values()))
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_loss_of_a_batch_is_of_all_its_anchors_with_a_box() -> None:
    boxes = some_boxes(6, 4, 3)
    answers = torch.randn(6, len(CORNERS), 5 + CLASSES)

    together = ssd_loss(answers, match(boxes, CORNERS), CENTRES)
    alone = [
        ssd_loss(answers[i : i + 1], match(boxes[i : i + 1], CORNERS), CENTRES) for i in range(6)
    ]

    torch.testing.assert_close(together.by_image(), torch.cat([one.by_image() for one in alone]))
    weights = together.matched_B / together.matched_B.sum()
    torch.testing.assert_close((together.by_image() * weights).sum(), together.mean())


def test_images_without_boxes_teach_nothing_and_break_nothing() -> None:
    boxes = torch.zeros(2, 0, 5)
    answers = torch.randn(2, len(CORNERS), 5 + CLASSES, requires_grad=True)

    loss = ssd_loss(answers, match(boxes, CORNERS), CENTRES).mean()
    loss.backward()

    assert float(loss.detach()) == 0
    assert answers.grad is not None
    assert float(answers.grad.abs().max()) == 0


def test_of_two_boxes_that_want_one_anchor_the_last_has_it() -> None:
    anchor = CORNERS[0]
    row = torch.cat([torch.zeros(1), anchor])
    boxes = torch.stack([row, row])[None]
    boxes[0, 1, 0] = 2

    assert match(boxes, CORNERS).classes_BA[0, 0] == 3


def test_every_box_has_an_anchor_however_small_it_is() -> None:
    boxes = torch.tensor([[[1, 0.5, 0.5, 0.51, 0.52]]])

    matched = match(boxes, CORNERS)

    assert int(matched.is_box_BA.sum()) == 1
    assert float(overlaps(boxes[..., 1:], CORNERS).max()) < 0.5


def test_perfect_answers_cost_nothing() -> None:
    boxes = some_boxes(3, 4, 8)
    matched = match(boxes, CORNERS)
    answers = torch.full((3, len(CORNERS), 5 + CLASSES), -30.0)
    answers[..., 4:].scatter_(2, matched.classes_BA[..., None], 30.0)
    answers[..., :4] = encode(matched.boxes_BA4, CENTRES, matched.is_box_BA)

    assert float(ssd_loss(answers, matched, CENTRES).mean()) == pytest.approx(0, abs=1e-6)


def test_three_backgrounds_count_for_each_box() -> None:
    classes = torch.zeros(1, len(CORNERS), dtype=torch.int64)
    classes[0, 10] = 1
    matched = Matched(classes, CORNERS[None])
    answers = torch.zeros(1, len(CORNERS), 5 + CLASSES)
    answers[..., :4] = encode(matched.boxes_BA4, CENTRES, matched.is_box_BA)

    loss = ssd_loss(answers, matched, CENTRES).mean()

    assert float(loss) == pytest.approx(4 * math.log(1 + CLASSES), rel=1e-5)


def test_background_in_an_ignored_region_costs_nothing() -> None:
    truth, region = (0, 0.05, 0.05, 0.3, 0.3), (ignored_label(1), 0.4, 0.4, 1, 1)
    boxes = torch.tensor([[truth, region]], dtype=torch.float32)
    without = torch.tensor([[truth, (-1, 0, 0, 0, 0)]], dtype=torch.float32)
    inside = torch.minimum(CORNERS[:, 2:], torch.ones(2)) - CORNERS[:, :2].clamp(min=0.4)
    share = inside.clamp(min=0).prod(dim=1) / (CORNERS[:, 2:] - CORNERS[:, :2]).prod(dim=1)
    answers = torch.zeros(1, len(CORNERS), 5 + CLASSES)
    answers[..., 4] = 20  # background, everywhere
    answers[0, share >= 0.5, 6] = 40  # but in the region, where something is seen

    found = ssd_loss(answers, match(boxes, CORNERS), CENTRES).sums_B
    strict = ssd_loss(answers, match(without, CORNERS), CENTRES).sums_B

    assert torch.equal(match(boxes, CORNERS).classes_BA, match(without, CORNERS).classes_BA)
    matched = int(match(boxes, CORNERS).is_box_BA.sum())
    assert float(strict - found) == pytest.approx(3 * matched * 20, rel=1e-3)
