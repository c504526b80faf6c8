"""Evaluates a detector on images with boxes.

Legend: B = batch, A = anchors, K = classes, M = boxes of the image that has most, N = boxes.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedfleet.data.boxes import NO_BOX, ignored_class
from fedfleet.data.images import Boxes
from fedfleet.data.shard import Examples
from fedfleet.errors import DataInvalid, NotInstalled, RecipeInvalid, TrainingFailed
from fedfleet.models.card import ModelCard
from fedfleet.models.detection import OFFSETS, Detection, anchors_of, decode_answer, overlaps
from fedfleet.training.batches import Batches
from fedfleet.training.evaluation import evaluation_mode
from fedfleet.types import Evaluation

# A box counts as found by an answered one of its class that is so sure and overlaps it by so much.
FOUND_SCORE = 0.5
FOUND_IOU = 0.5
# An answer that lies in an ignored region of its class with so much of its area counts for nothing
# (COCO's rule for crowds).
IGNORED_SHARE = 0.5
# Answers for the average precision, which ranks all of them: from where torchvision's detectors
# answer at all.
_LEAST_SCORE = 0.01
_SCORES = "fedfleet.training.average_precision:average_precisions"

# Of answers and boxes of a batch: the loss of each image, shape (B,).
ImageLosses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """One image: what is there, and what the detector says.

    Args:
        truth: rows (label, left, top, right, bottom), shape (N, 5).
        answered: the surest first.
        ignored: rows (class, left, top, right, bottom) of regions by which nobody is judged.
    """

    truth: Boxes
    answered: Sequence[Detection]
    ignored: Boxes = field(default_factory=lambda: np.empty((0, 5), np.float32))


def evaluate_detector(
    module: nn.Module,
    examples: Examples,
    card: ModelCard,
    losses: ImageLosses,
    *,
    batch_size: int,
    device: torch.device,
    scores: bool,
) -> Evaluation:
    """Count boxes: ``samples`` are those that are there, ``correct`` those that are found, each
    once, ``class_predicted`` those that are answered; ``loss_sum`` is the sum over images of their
    loss times their boxes. So evaluations add up, and recall and precision can be told.

    Args:
        scores: measure average precisions too, which do not add up.

    Raises:
        DataInvalid: the examples are not what the model expects.
        NotInstalled: the average precisions need a package that is not here.
        TrainingFailed: the model answers NaN or infinity.
    """
    require_boxes(examples)
    batches = Batches(examples, card.inputs, len(card.classes), device)
    loss_sum, seen = 0.0, []
    with evaluation_mode(module), torch.inference_mode():
        for start in range(0, len(batches), batch_size):
            images, boxes = batches.take(slice(start, start + batch_size))
            answers = module(batches.normalise(images)).float()
            check_answers(answers, len(images), card)
            weights = (boxes[..., 0] >= 0).sum(1)
            loss_sum += float((losses(answers, boxes).double() * weights).sum())
            if not math.isfinite(loss_sum) or not bool(answers.isfinite().all()):
                raise TrainingFailed(
                    "the model's answers are not finite: training diverged; lower training.lr"
                )
            seen += [
                _seen(rows, decode_answer(card, answer, score=_LEAST_SCORE))
                for rows, answer in zip(boxes.cpu().numpy(), answers.cpu().numpy(), strict=True)
            ]
    return _counted(seen, card, loss_sum, _find_scores()(seen, card.classes) if scores else {})


def _seen(rows: Boxes, answered: Sequence[Detection]) -> Seen:
    labels = rows[:, 0]
    ignored = rows[labels < NO_BOX]
    ignored[:, 0] = ignored_class(ignored[:, 0])
    return Seen(rows[labels >= 0], answered, ignored)


def require_boxes(examples: Examples) -> None:
    """Raises DataInvalid: the examples have labels alone."""
    if examples.boxes is None:
        raise DataInvalid("a detector needs examples with boxes; these have labels alone")


def check_answers(answers: Tensor, examples: int, card: ModelCard) -> None:
    """Refuse a detector whose answer is not one row per anchor.

    Raises:
        RecipeInvalid: naming both shapes.
    """
    want = (examples, len(anchors_of(card)), OFFSETS + 1 + len(card.classes))
    if answers.shape != want:
        raise RecipeInvalid(
            f"model: answers with shape {tuple(answers.shape)} to {examples} images; "
            f"expected {want}"
        )


def compare(seen: Seen) -> tuple[list[int], list[int]]:
    """The classes of the boxes that are found, and of the answers that found none.

    Of several answers for one box the surest counts, and an answer counts for the box that it
    overlaps most among those not found yet. An answer in an ignored region is neither.
    """
    labels = seen.truth[:, 0].astype(np.int64)
    is_open = np.ones(len(labels), np.bool_)
    found, missed = [], []
    for answer in seen.answered:
        if answer.score < FOUND_SCORE:
            break  # the surest come first
        shares = overlaps(np.asarray([answer.box], np.float32), seen.truth[:, 1:])[0]
        shares = np.where(is_open & (labels == answer.index), shares, -1.0)
        place = int(shares.argmax()) if shares.size else -1
        if shares.size and shares[place] >= FOUND_IOU:
            is_open[place] = False
            found.append(answer.index)
        elif not _is_ignored(answer, seen.ignored):
            missed.append(answer.index)
    return found, missed


def _is_ignored(answer: Detection, ignored: Boxes) -> bool:
    corners = ignored[ignored[:, 0] == answer.index, 1:]
    left, top, right, bottom = answer.box
    low = np.maximum(corners[:, :2], (left, top))
    high = np.minimum(corners[:, 2:], (right, bottom))
    common = (high - low).clip(min=0).prod(axis=1)
    return bool((common >= IGNORED_SHARE * (right - left) * (bottom - top)).any())


def _counted(
    seen: Sequence[Seen], card: ModelCard, loss_sum: float, scores: dict[str, float]
) -> Evaluation:
    true, right, answered = (np.zeros(len(card.classes), np.int64) for _ in range(3))
    for one in seen:
        np.add.at(true, one.truth[:, 0].astype(np.int64), 1)
        found, missed = compare(one)
        np.add.at(right, found, 1)
        np.add.at(answered, found + missed, 1)
    correct = int(right.sum())
    return Evaluation(
        samples=int(true.sum()),
        loss_sum=loss_sum,
        correct=correct,
        top5=correct,
        class_samples=tuple(true.tolist()),
        class_correct=tuple(right.tolist()),
        class_predicted=tuple(answered.tolist()),
        scores=scores,
    )


def _find_scores() -> Any:
    """The function that measures average precisions. Any: it is found by name.

    Raises:
        NotInstalled: torchmetrics, or what it needs for this, is not.
    """
    try:
        return pkgutil.resolve_name(_SCORES)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("torchmetrics", "pycocotools", "torchvision"):
            raise
        raise NotInstalled.of_extra(
            f"a detector's average precision: {missing}", "detection"
        ) from error
