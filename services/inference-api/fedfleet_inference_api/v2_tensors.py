"""Tensors of the KServe V2 protocol as JSON: in as images, out as a version's answers.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol,
its JSON form; the extension for binary tensor data is not served.

Legend: B = batch, C = channels, H = height, W = width, A = anchors, K = classes, N = boxes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Pixels
from fedfleet.errors import InvalidInput
from fedfleet.models.card import ModelCard
from fedfleet.models.detection import anchors_of, decode_answer
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.reading import DEFAULT_SCORE
from fedfleet_inference_api.servable import softmax

INPUT = "image"
PROBABILITIES, LOGITS = "probabilities", "logits"
DETECTIONS, RAW = "detections", "raw"
# Of a row of ``detections``: which image of the batch, class, score, left, top, right, bottom.
DETECTION_FIELDS = 7
# Parameters that ask for extensions of the protocol; those that only describe data are allowed.
EXTENSIONS = ("binary_data", "binary_data_output", "binary_data_size", "classification")
SHARED_MEMORY = "shared_memory_"
SEQUENCE = "sequence_"
# Of all outputs of one answer: written out, they are twenty times as many bytes.
MOST_ANSWERED = 1_000_000
# Numbers that are converted in one go, in which no other thread has its turn.
_CHUNK = 65_536
# Of a float64 as JSON, written as exactly as can be, with a comma and a space.
_NUMBER_BYTES = 26
_SPARE_BYTES = 64 * 1024

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Inference:
    """What an infer request asks.

    Args:
        images: uint8, shape (B, C, H, W).
        outputs: names, in the order of the answer.
    """

    request_id: str | None
    images: Pixels
    outputs: tuple[str, ...]


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


def parse_inference(value: object, card: ModelCard, most: int) -> Inference:
    """Check a request, field by field.

    Args:
        most: images in one request.

    Raises:
        InvalidInput: says which field is wrong.
    """
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    _check_fields(value, {"id", "parameters", "inputs", "outputs"}, "the request")
    request_id = value.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidInput("id: must be a text")
    _check_parameters(value.get("parameters"), "parameters")
    inputs = value.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise InvalidInput(f"inputs: must be a list of one tensor, named {INPUT!r}")
    outputs = _outputs(value.get("outputs"), card)
    images = _images(inputs[0], card, most)
    _check_size(card, outputs, len(images))
    return Inference(request_id, images, outputs)


def _check_size(card: ModelCard, outputs: Sequence[str], images: int) -> None:
    shapes = outputs_of(card)
    numbers = images * sum(math.prod(shapes[name][1:]) for name in outputs)
    if numbers > MOST_ANSWERED:
        raise InvalidInput(
            f"outputs: of {images} images they are {numbers:,} numbers, an answer holds "
            f"{MOST_ANSWERED:,}: send fewer images"
        )


def _images(tensor: object, card: ModelCard, most: int) -> Pixels:
    if not isinstance(tensor, dict):
        raise InvalidInput("inputs[0]: must be an object")
    _check_fields(tensor, {"name", "shape", "datatype", "parameters", "data"}, "inputs[0]")
    _check_parameters(tensor.get("parameters"), "inputs[0].parameters")
    if tensor.get("name") != INPUT:
        raise InvalidInput(f"inputs[0].name: the model has one input, {INPUT!r}")
    shape, want = tensor.get("shape"), input_shape(card)
    if (
        not isinstance(shape, list)
        or not all(type(side) is int for side in shape)
        or shape[1:] != want[1:]
        or not 1 <= shape[0] <= most
    ):
        raise InvalidInput(f"inputs[0].shape: must be {want[1:]} behind 1 to {most} images")
    numbers = _numbers(tensor.get("data"), tuple(shape))
    return _pixels(numbers, tensor.get("datatype"))


def _numbers(data: object, shape: tuple[int, ...]) -> Numbers:
    """The data, flat or nested as the shape says."""
    if not isinstance(data, list):
        raise InvalidInput("inputs[0].data: must be a list of numbers, flat or nested")
    size = math.prod(shape)
    is_nested = bool(data) and isinstance(data[0], list)
    leaves = chain.from_iterable(_rows(data, shape if is_nested else (size,)))
    numbers = np.empty(size)
    for start in range(0, size, _CHUNK):
        chunk = list(islice(leaves, _CHUNK))
        if not {*map(type, chunk)} <= {int, float}:
            raise InvalidInput("inputs[0].data: must hold numbers and nothing else")
        try:
            numbers[start : start + _CHUNK] = np.fromiter(chunk, np.float64, len(chunk))
        except OverflowError as error:
            raise InvalidInput("inputs[0].data: holds a number that is too large") from error
    return numbers.reshape(shape)


def _rows(data: list[Any], shape: tuple[int, ...]) -> list[list[Any]]:
    """The innermost lists. Any: whatever JSON holds."""
    rows = [data]
    for depth, side in enumerate(shape):
        if not all(isinstance(row, list) and len(row) == side for row in rows):
            raise InvalidInput(f"inputs[0].data: must have {side} in each list of axis {depth}")
        if depth < len(shape) - 1:
            rows = [inner for row in rows for inner in row]
    return rows


def _pixels(numbers: Numbers, datatype: object) -> Pixels:
    """UINT8 is pixels as they are; FP32 their share of 255, to the nearest of 256 steps."""
    if datatype == "FP32":
        if not ((numbers >= 0) & (numbers <= 1)).all():  # what is no number fails, too
            raise InvalidInput("inputs[0].data: FP32 must be shares of full light, from 0 to 1")
        return np.rint(255 * numbers).astype(np.uint8)
    if datatype == "UINT8":
        if not ((numbers >= 0) & (numbers <= 255)).all() or (numbers % 1).any():
            raise InvalidInput("inputs[0].data: UINT8 must be whole numbers from 0 to 255")
        return numbers.astype(np.uint8)
    raise InvalidInput("inputs[0].datatype: must be UINT8 or FP32")


def _outputs(value: object, card: ModelCard) -> tuple[str, ...]:
    known = list(outputs_of(card))
    if value is None or value == []:
        return (known[0],)
    if not isinstance(value, list) or len(value) > len(known):
        raise InvalidInput(f"outputs: must be a list of some of {', '.join(known)}")
    names: list[str] = []
    for place, output in enumerate(value):
        if not isinstance(output, dict) or output.get("name") not in known:
            raise InvalidInput(f"outputs[{place}].name: must be one of {', '.join(known)}")
        _check_fields(output, {"name", "parameters"}, f"outputs[{place}]")
        _check_parameters(output.get("parameters"), f"outputs[{place}].parameters")
        if output["name"] in names:
            raise InvalidInput(f"outputs[{place}].name: {output['name']!r} is named twice")
        names.append(output["name"])
    return tuple(names)


def _check_fields(value: Mapping[str, object], known: set[str], where: str) -> None:
    odd = sorted(set(value) - known)
    if odd:
        raise InvalidInput(f"{where}: the field {odd[0][:40]!r} is unknown")


def _check_parameters(value: object, where: str) -> None:
    """Refuse what asks for another form of answer than there is here."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: must be an object")
    for name, wish in value.items():
        is_extension = name in EXTENSIONS or name.startswith((SHARED_MEMORY, SEQUENCE))
        if is_extension and wish is not False:
            raise InvalidInput(f"{where}.{name[:40]}: this extension is not served here")


def tensors_of(
    card: ModelCard, answers: Sequence[Answers], outputs: Sequence[str]
) -> list[dict[str, Any]]:
    """The named outputs as JSON tensors, their data flat in row-major order.

    Args:
        answers: one for each image: logits (K,), or a detector's (A, 5 + K).
    """
    return [_tensor(name, _output(card, np.stack(answers), name)) for name in outputs]


def _output(card: ModelCard, answers: Answers, name: str) -> Numbers | Answers:
    if name == PROBABILITIES:
        return softmax(answers)
    if name == DETECTIONS:
        return _detections(card, answers)
    return answers


def _detections(card: ModelCard, answers: Answers) -> Numbers:
    rows = [
        (image, found.index, found.score, *found.box)
        for image, answer in enumerate(answers)
        for found in decode_answer(card, answer, score=DEFAULT_SCORE)
    ]
    return np.asarray(rows, np.float64).reshape(-1, DETECTION_FIELDS)


def _tensor(name: str, values: Numbers | Answers) -> dict[str, Any]:
    """As FP32: a number is written as the float32 that it is read as."""
    single = values.astype(np.float32)
    return {
        "name": name,
        "datatype": "FP32",
        "shape": list(single.shape),
        "data": single.ravel().tolist(),
    }
