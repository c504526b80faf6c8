"""The loss of single-shot detectors (Liu et al. 2016, arXiv:1512.02325, section 2.2), computed for
a whole batch at once.

The values are those of torchvision's ``SSD.compute_loss`` with its ``SSDMatcher`` and ``BoxCoder``,
which go image by image; a test compares them. They are not called, so that a device that trains a
small detector needs no torchvision.

Legend: B = batch, M = boxes of the image that has most, A = anchors, K = classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedfleet.data.boxes import NO_BOX
from fedfleet.models.detection import CENTRE_WEIGHT, OFFSETS, SIDE_WEIGHT

# An anchor answers for a box that it overlaps by so much.
MATCH_IOU = 0.5
# Anchors without a box that count, for each anchor that has one: the worst answered.
NEGATIVES = 3
# An anchor that lies in a region that is ignored with so much of its area is not background.
IGNORED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Matched:
    """Which box each anchor answers for.

    Args:
        classes_BA: int64; 0 for the background, else the label of its box plus 1.
        boxes_BA4: its box; without meaning where there is none.
        is_ignored_BA: it lies in a region that is ignored; None where there is no such region.
    """

    classes_BA: Tensor
    boxes_BA4: Tensor
    is_ignored_BA: Tensor | None = None

    @property
    def is_box_BA(self) -> Tensor:
        return self.classes_BA > 0


@dataclass(frozen=True, eq=False)
class SsdLoss:
    """The loss of each image before it is divided by the anchors that have a box.

    Args:
        sums_B: smooth L1 of the offsets, and cross-entropy of what counts.
        matched_B: anchors that have a box.
    """

    sums_B: Tensor
    matched_B: Tensor

    def mean(self) -> Tensor:
        """Over the batch's anchors that have a box, as torchvision; shape ()."""
        return self.sums_B.sum() / self.matched_B.sum().clamp(min=1)

    def by_image(self) -> Tensor:
        """Over each image's own, shape (B,); 0 for an image without boxes."""
        return self.sums_B / self.matched_B.clamp(min=1)


def ssd_loss(answers: Tensor, matched: Matched, centres_A4: Tensor) -> SsdLoss:
    """Compare answers with what their anchors should have said.

    Args:
        answers: float32, shape (B, A, 4 + 1 + K).
        centres_A4: the anchors' centre x, centre y, width, height.
    """
    is_box_BA = matched.is_box_BA
    logits = answers[..., OFFSETS:]
    entropy_BA = F.cross_entropy(
        logits.flatten(0, 1), matched.classes_BA.flatten(), reduction="none"
    ).view(is_box_BA.shape)
    counts_BA = is_box_BA | _hard_negatives(entropy_BA.detach(), matched)
    wanted_BA4 = encode(matched.boxes_BA4, centres_A4, is_box_BA)
    distance_BA = F.smooth_l1_loss(answers[..., :OFFSETS], wanted_BA4, reduction="none").sum(2)
    sums_B = (distance_BA * is_box_BA).sum(1) + (entropy_BA * counts_BA).sum(1)
    return SsdLoss(sums_B, is_box_BA.sum(1))


def _hard_negatives(entropy_BA: Tensor, matched: Matched) -> Tensor:
    """The background anchors with the highest loss, ``NEGATIVES`` for each that has a box."""
    is_box_BA, is_ignored_BA = matched.is_box_BA, matched.is_ignored_BA
    is_none_BA = is_box_BA if is_ignored_BA is None else is_box_BA | is_ignored_BA
    ranked_BA = entropy_BA.masked_fill(is_none_BA, -torch.inf).sort(
        dim=1, descending=True, stable=True
    )
    wanted_B1 = NEGATIVES * is_box_BA.sum(1, keepdim=True)
    places_A = torch.arange(entropy_BA.shape[1], device=entropy_BA.device)
    chosen_BA = torch.zeros_like(is_box_BA).scatter(1, ranked_BA.indices, places_A < wanted_B1)
    return chosen_BA & ~is_none_BA


def encode(boxes_BA4: Tensor, centres_A4: Tensor, is_box_BA: Tensor) -> Tensor:
    """The offsets (B, A, 4) of boxes (left, top, right, bottom); 0 where there is no box."""
    sides_A2 = centres_A4[:, 2:]
    middle = (boxes_BA4[..., :2] + boxes_BA4[..., 2:]) / 2
    # A logarithm of 0 times 0 would be no number.
    sides = torch.where(is_box_BA[..., None], boxes_BA4[..., 2:] - boxes_BA4[..., :2], sides_A2)
    shift = CENTRE_WEIGHT * (middle - centres_A4[:, :2]) / sides_A2
    growth = SIDE_WEIGHT * torch.log(sides / sides_A2)
    return torch.cat([shift, growth], dim=2) * is_box_BA[..., None]


def match(boxes_BM5: Tensor, corners_A4: Tensor) -> Matched:
    """Give each anchor the box that it overlaps most, if by ``MATCH_IOU``; and each box the anchor
    that overlaps it most, whatever else that overlaps.

    Args:
        boxes_BM5: rows (label, left, top, right, bottom); label -1 for no box, below for a region
            that is ignored.
        corners_A4: the anchors' left, top, right, bottom.
    """
    labels_BM = boxes_BM5[..., 0].long()
    if not labels_BM.shape[1]:  # no image has a box
        shape = (len(labels_BM), len(corners_A4))
        return Matched(labels_BM.new_zeros(shape), corners_A4.new_zeros((*shape, 4)))
    is_real_BM = labels_BM >= 0
    iou_BMA = overlaps(boxes_BM5[..., 1:], corners_A4)
    iou_BMA = iou_BMA.masked_fill(~is_real_BM[..., None], -1.0)
    value_BA, box_BA = iou_BMA.max(dim=1)
    box_BA = torch.where(value_BA >= MATCH_IOU, box_BA, -1)
    # Of two boxes that want one anchor, the last in order has it, as in torchvision.
    numbers_BM = torch.arange(labels_BM.shape[1], device=labels_BM.device).expand_as(labels_BM)
    forced_BA = torch.full_like(box_BA, -1).scatter_reduce(
        1, iou_BMA.argmax(dim=2), torch.where(is_real_BM, numbers_BM, -1), "amax"
    )
    box_BA = torch.where(forced_BA >= 0, forced_BA, box_BA)
    place_BA = box_BA.clamp(min=0)
    classes_BA = torch.where(box_BA >= 0, labels_BM.gather(1, place_BA) + 1, 0)
    places_BA4 = place_BA[..., None].expand(*place_BA.shape, 4)
    boxes_BA4 = boxes_BM5[..., 1:].gather(1, places_BA4)
    return Matched(classes_BA, boxes_BA4, _ignored(boxes_BM5, corners_A4))


def _ignored(boxes_BM5: Tensor, corners_A4: Tensor) -> Tensor | None:
    """Which anchors lie in a region that is ignored, shape (B, A)."""
    is_region_BM = boxes_BM5[..., 0] < NO_BOX
    if not bool(is_region_BM.any()):
        return None
    inside_BMA = _common(boxes_BM5[..., 1:], corners_A4) / _area(corners_A4)
    return (inside_BMA.masked_fill(~is_region_BM[..., None], 0) >= IGNORED_SHARE).any(dim=1)


def overlaps(boxes_BM4: Tensor, corners_A4: Tensor) -> Tensor:
    """Intersection over union of each box with each anchor, shape (B, M, A)."""
    both_BMA = _common(boxes_BM4, corners_A4)
    return both_BMA / (_area(boxes_BM4)[..., None] + _area(corners_A4) - both_BMA)


def _common(boxes_BM4: Tensor, corners_A4: Tensor) -> Tensor:
    """The area that each box has in common with each anchor, shape (B, M, A)."""
    boxes_BM14 = boxes_BM4[:, :, None, :]
    low = torch.maximum(boxes_BM14[..., :2], corners_A4[:, :2])
    high = torch.minimum(boxes_BM14[..., 2:], corners_A4[:, 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def _area(corners_4: Tensor) -> Tensor:
    return (corners_4[..., 2:] - corners_4[..., :2]).prod(dim=-1)
