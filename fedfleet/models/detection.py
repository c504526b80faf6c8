"""From a detector's raw answer to boxes; torch-free, so that whoever serves needs no torchvision.

A detector answers each image with one row per anchor: four offsets of the anchor's box, in the
coding of SSD (Liu et al. 2016, arXiv:1512.02325, equation 2, with torchvision's weights), then a
logit for the background and one for each class.

Legend: A = anchors, K = classes, N = boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedfleet.errors import RecipeInvalid
from fedfleet.models.anchors import GRIDS, BoxRows
from fedfleet.models.card import ModelCard
from fedfleet.tables import suggest

Floats = npt.NDArray[np.float32]

# What offsets of the centre and of the logarithm of the sides are multiplied by.
CENTRE_WEIGHT = 10.0
SIDE_WEIGHT = 5.0
# Columns of an answer before the logits; the first logit is the background's.
OFFSETS = 4
# A box cannot come out larger than 1000/16 times its anchor: exp would pass all bounds.
_MOST_GROWTH = float(np.log(1000.0 / 16))
# Boxes of a class that compete in the suppression; those below are never among the answers.
_MOST_CANDIDATES = 400
# Boxes of all classes that compete: whoever asks for every score would else have hundreds of
# thousands of them suppressed. Ten times what is answered.
_MOST_COMPETING = 1000


@dataclass(frozen=True)
class Detection:
    """Something that a detector saw.

    Args:
        index: of the class in the card.
        score: its probability, in (0, 1].
        box: left, top, right, bottom as shares of the input's sides, in [0, 1].
    """

    index: int
    score: float
    box: tuple[float, float, float, float]


def anchors_of(card: ModelCard) -> BoxRows:
    """The anchors of a detector in the order of its answers. Not to be mutated.

    Returns:
        float32, shape (A, 4): left, top, right, bottom as shares of the input's sides; those at
        the border may reach out of [0, 1].

    Raises:
        RecipeInvalid: the architecture is no detector.
    """
    return _corners_of(*_key(card))


def centres_of(card: ModelCard) -> BoxRows:
    """The same anchors as centre x, centre y, width, height. Not to be mutated."""
    return _centres_of(*_key(card))


def decode_answer(
    card: ModelCard,
    answer: Floats,
    *,
    score: float = 0.4,
    iou: float = 0.5,
    most: int = 100,
) -> list[Detection]:
    """The boxes that a detector saw in one image, the surest first.

    Of boxes of one class that overlap by more than ``iou``, the surest stays (as torchvision's
    ``batched_nms``).

    Args:
        answer: float32, shape (A, 4 + 1 + K).
        score: the least probability of a box.
        most: how many boxes at most.

    Raises:
        ValueError: the answer has another shape than the card's detector gives.
    """
    centres, classes = centres_of(card), len(card.classes)
    want = (len(centres), OFFSETS + 1 + classes)
    if answer.shape != want:
        raise ValueError(f"the answer has shape {answer.shape}, this detector's have {want}")
    scores = probabilities(answer)
    rows, labels = np.nonzero(scores >= score)
    if not len(rows):
        return []
    sure = scores[rows, labels]
    order = _surest(sure, max(_MOST_COMPETING, most))
    rows, labels, sure = rows[order], labels[order], sure[order]
    boxes = np.clip(decode_boxes(answer[rows, :OFFSETS], centres[rows]), 0.0, 1.0)
    kept = suppress(boxes, labels, iou)[:most]
    return [
        Detection(int(labels[place]), float(sure[place]), _corners(boxes[place])) for place in kept
    ]


def _surest(scores: Floats, most: int) -> npt.NDArray[np.int64]:
    """The places of the highest scores, the highest first; of equal ones the first."""
    places = np.arange(len(scores))
    if len(scores) > most:  # sorting them all would take longer than all the rest
        least = np.partition(scores, -most)[-most]
        places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")[:most]]


def probabilities(answer: Floats) -> Floats:
    """The probability of each class at each anchor, shape (A, K); the background's is left out."""
    logits = answer[:, OFFSETS:].astype(np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: Floats = powers[:, 1:] / powers.sum(axis=1, keepdims=True)
    return scores


def decode_boxes(offsets: Floats, centres: BoxRows) -> BoxRows:
    """Apply offsets to their anchors.

    Args:
        offsets: shape (N, 4).
        centres: of the same anchors, shape (N, 4): centre x, centre y, width, height.

    Returns:
        Shape (N, 4): left, top, right, bottom; may reach out of [0, 1].
    """
    sides = centres[:, 2:]
    middle = centres[:, :2] + offsets[:, :2] / CENTRE_WEIGHT * sides
    half = np.exp(np.minimum(offsets[:, 2:] / SIDE_WEIGHT, _MOST_GROWTH)) * sides / 2
    return np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)


def suppress(boxes: BoxRows, labels: npt.NDArray[np.int64], iou: float) -> list[int]:
    """The places of the boxes that stay, in their order.

    Args:
        boxes: shape (N, 4), the surest first.
        labels: shape (N,); boxes of different classes do not suppress one another.
    """
    kept: list[int] = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)[:_MOST_CANDIDATES]
        overlap = overlaps(boxes[places], boxes[places])
        is_open = np.ones(len(places), np.bool_)
        for row in range(len(places)):
            if is_open[row]:
                kept.append(int(places[row]))
                is_open &= ~(overlap[row] > iou)
    return sorted(kept)


def overlaps(boxes: BoxRows, others: BoxRows) -> Floats:
    """Intersection over union of each box with each other one, shape (N, M); 0 where both are
    empty.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    whole = _area(boxes)[:, None] + _area(others)[None, :] - both
    shares: Floats = np.where(whole > 0, both / np.where(whole > 0, whole, 1), 0)
    return shares.astype(np.float32)


def _area(boxes: BoxRows) -> Floats:
    area: Floats = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return area


def _corners(box: Floats) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(side) for side in box)
    return left, top, right, bottom


def _key(card: ModelCard) -> tuple[str, int, int]:
    name = card.model.architecture
    if name not in GRIDS:
        raise RecipeInvalid(
            f'architecture = "{name}": is no detector; {suggest(name, list(GRIDS))}'
        )
    return name, card.inputs.height, card.inputs.width


@lru_cache(maxsize=16)
def _centres_of(architecture: str, height: int, width: int) -> BoxRows:
    centres = GRIDS[architecture].anchors(height, width)
    centres.setflags(write=False)
    return centres


@lru_cache(maxsize=16)
def _corners_of(architecture: str, height: int, width: int) -> BoxRows:
    centres = _centres_of(architecture, height, width)
    half = centres[:, 2:] / 2
    corners = np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)
    corners.setflags(write=False)
    return corners
