"""From an image's bytes to what a version sees, and from its raw answer to what callers read."""

from __future__ import annotations

from fedfleet.data.decode import decode_image, fit_pixels, squeeze_pixels
from fedfleet.data.images import Pixels
from fedfleet.errors import InvalidInput
from fedfleet.models.detection import decode_answer
from fedfleet_inference_api.answers import BoxAnswer, DetectionAnswer, Prediction
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.servable import Servable, softmax

DEFAULT_K = 5
DEFAULT_SCORE = 0.4


def pixels_for(servable: Servable, data: bytes) -> Pixels:
    """Decode an image and bring it to a version's input: uint8, shape (C, H, W).

    A classifier sees the middle of it; a detector all of it, squeezed, so that boxes are shares of
    the caller's image.

    Raises:
        ImageInvalid, ImageTooLarge: as ``decode_image``.
    """
    spec = servable.card.inputs
    fit = squeeze_pixels if servable.card.kind == "detection" else fit_pixels
    image = decode_image(data, side=max(spec.height, spec.width))
    return fit(image, channels=spec.channels, height=spec.height, width=spec.width)


def check_query(servable: Servable, k: int | None, score: float | None) -> None:
    """Refuse what would be ignored.

    Raises:
        InvalidInput: ``k`` of a detector or beyond its classes, ``score`` of a classifier.
    """
    name, classes = servable.record.model, len(servable.card.classes)
    if servable.card.kind == "detection":
        if k is not None:
            raise InvalidInput(f"k = {k}: {name} is a detector, it takes score instead")
        return
    if score is not None:
        raise InvalidInput(f"score = {score:g}: {name} is no detector, it takes k instead")
    if k is not None and k > classes:
        raise InvalidInput(f"k = {k}: {name} has {classes} classes")


def predictions_of(servable: Servable, answer: Answers, k: int | None) -> list[Prediction]:
    """The most probable classes; of equal ones the first.

    Args:
        answer: logits, shape (K,).
        k: how many, None for five or all there are.
    """
    classes = servable.card.classes
    probabilities = softmax(answer)
    order = (-probabilities).argsort(kind="stable")[: k or DEFAULT_K]
    return [
        Prediction(label=classes[index], index=int(index), probability=float(probabilities[index]))
        for index in order
    ]


def detections_of(
    servable: Servable, answer: Answers, score: float | None
) -> list[DetectionAnswer]:
    """What a detector saw, the surest first.

    Args:
        answer: shape (A, 5 + K).
        score: the least, None for 0.4.
    """
    least = DEFAULT_SCORE if score is None else score
    return [
        DetectionAnswer(
            label=servable.card.classes[found.index],
            index=found.index,
            score=min(1.0, found.score),
            box=BoxAnswer(
                left=found.box[0], top=found.box[1], right=found.box[2], bottom=found.box[3]
            ),
        )
        for found in decode_answer(servable.card, answer, score=least)
    ]
