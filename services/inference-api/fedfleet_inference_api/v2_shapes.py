"""What a model takes and gives as tensors of the KServe V2 protocol, and how large that gets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fedfleet.errors import InvalidInput
from fedfleet.models.card import ModelCard
from fedfleet.models.detection import anchors_of

INPUT = "image"
PROBABILITIES, LOGITS = "probabilities", "logits"
DETECTIONS, RAW = "detections", "raw"
# Of a row of ``detections``: which image of the batch, class, score, left, top, right, bottom.
DETECTION_FIELDS = 7
# Of all outputs of one answer: as JSON, they are twenty times as many bytes.
MOST_ANSWERED = 1_000_000
# Of a float64 as JSON, written as exactly as can be, with a comma and a space. As binary data a
# number has at most four.
_NUMBER_BYTES = 26
_SPARE_BYTES = 64 * 1024


def input_shape(card: ModelCard) -> list[int]:
    """-1 stands for any number of images."""
    return [-1, card.inputs.channels, card.inputs.height, card.inputs.width]


def outputs_of(card: ModelCard) -> dict[str, list[int]]:
    """The shape of each output; the first one is the answer where none is named."""
    classes = len(card.classes)
    if card.kind == "detection":
        return {
            DETECTIONS: [-1, DETECTION_FIELDS],
            RAW: [-1, len(anchors_of(card)), 5 + classes],
        }
    return {PROBABILITIES: [-1, classes], LOGITS: [-1, classes]}


def check_answer(card: ModelCard, outputs: Iterable[str], images: int) -> None:
    """Raise InvalidInput where the outputs of so many images are more than an answer holds."""
    shapes = outputs_of(card)
    numbers = images * sum(math.prod(shapes[name][1:]) for name in outputs)
    if numbers > MOST_ANSWERED:
        raise InvalidInput(
            f"outputs: of {images} images they are {numbers:,} numbers, an answer holds "
            f"{MOST_ANSWERED:,}: send fewer images"
        )


@dataclass(frozen=True)
class BodyBounds:
    """What the body of the largest request has, with any numbers in it.

    Args:
        lists: brackets, where its data are nested.
    """

    size_bytes: int
    lists: int
    commas: int


def body_bounds(card: ModelCard, most: int) -> BodyBounds:
    """Of a model and so many images."""
    _, channels, height, width = input_shape(card)
    numbers = most * channels * height * width
    lists = 1 + most * (1 + channels * (1 + height))
    return BodyBounds(_NUMBER_BYTES * numbers + 2 * lists + _SPARE_BYTES, lists, numbers)
