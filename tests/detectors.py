"""Detectors for tests that need no training: answers made from boxes, and weights made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfleet.models.anchors import GRIDS
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import MlpOptions, ModelConfig, SsdTinyOptions
from fedfleet.models.detection import (
    CENTRE_WEIGHT,
    OFFSETS,
    SIDE_WEIGHT,
    centres_of,
    overlaps,
)
from fedfleet.store.protocols import VersionRecord
from fedfleet.training.state import initial_state, schema_of
from fedfleet.types import InputSpec, ModelState
from fedfleet_inference_api.backends.backend import Prepared
from fedfleet_inference_api.backends.plain import PlainTorch
from fedfleet_inference_api.servable import Servable

SHAPES = ("circle", "square", "triangle")
_GREY = (0.5, 0.5, 0.5)
DETECTOR = ModelCard(
    model=ModelConfig(architecture="ssd_tiny", options=SsdTinyOptions(width=0.25)),
    inputs=InputSpec(channels=3, height=128, width=128, mean=_GREY, std=_GREY),
    classes=SHAPES,
    kind="detection",
)
CLASSIFIER = ModelCard(
    model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=(8,))),
    inputs=InputSpec(channels=3, height=16, width=16, mean=_GREY, std=_GREY),
    classes=SHAPES,
)

# Class, score and box of a thing.
Thing = tuple[int, float, tuple[float, float, float, float]]


def encode_boxes(boxes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The offsets that make boxes (N, 4), of sides above 0, of their anchors (N, 4)."""
    sides = centres[:, 2:]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    shift = CENTRE_WEIGHT * (middle - centres[:, :2]) / sides
    growth = SIDE_WEIGHT * np.log((boxes[:, 2:] - boxes[:, :2]) / sides)
    return np.concatenate([shift, growth], axis=1).astype(np.float32)


def servable(card: ModelCard, number: int = 1) -> Servable:
    """A version with random weights."""
    module = build(card).eval()
    record = VersionRecord(
        model="shapes",
        number=number,
        digest=f"{number:064x}",
        size_bytes=1,
        schema=schema_of(module),
        run_id="run",
        round=number,
        parent=None,
        created_at_s=0.0,
        card=card.to_json(),
    )
    return Servable(record, "latest", card, PlainTorch(Prepared(module, card.inputs)))


def detector_answer(card: ModelCard, things: Sequence[Thing]) -> np.ndarray:
    """The raw answer (A, 4 + 1 + K) of a detector that sees these things, each at one anchor."""
    centres = centres_of(card)
    half = centres[:, 2:] / 2
    corners = np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)
    answer = np.zeros((len(centres), 5 + len(card.classes)), np.float32)
    answer[:, 4] = 20.0  # the background
    for index, score, box in things:
        row = np.asarray([box], np.float32)
        near = overlaps(row, corners)[0]
        near[answer[:, 4] != 20.0] = -1.0  # taken
        place = int(near.argmax())
        answer[place, :4] = encode_boxes(row, centres[place : place + 1])[0]
        answer[place, 4:] = -20.0
        answer[place, 4] = 0.0
        answer[place, 5 + index] = np.log(score / (1 - score))
    return answer


def quadrant_state(card: ModelCard = DETECTOR) -> ModelState:
    """Weights with which ``ssd_tiny`` sees a square in each quarter of the picture that is bright.

    Each convolution that halves the picture is the mean of 2 by 2 pixels, and all others leave it
    as it is, so the last map of 2 by 2 places holds each quarter's brightness.
    """
    state = initial_state(card, 0)
    tensors = {name: array.copy() for name, array in state.tensors().items()}
    for name, array in tensors.items():
        part = name.split(".")
        if part[0] == "heads":
            array[...] = 0
        elif array.ndim == 4:
            halves = part[0] == "stem" or part[2] == "0"
            array[...] = 0
            if halves:
                array[:, :, 1:, 1:] = 1 / (4 * array.shape[1])
            else:
                array[:, :, 1, 1] = 1 / array.shape[1]
        elif name.endswith((".weight", ".running_var")):
            array[...] = 1
        elif array.ndim:
            array[...] = 0
    per_place, columns = GRIDS["ssd_tiny"].per_place, OFFSETS + 1 + len(card.classes)
    last = len(GRIDS["ssd_tiny"].strides) - 1
    for head in range(last + 1):
        bias = tensors[f"heads.{head}.bias"].reshape(per_place, columns)
        bias[:, OFFSETS] = 20  # background, everywhere but at the last map's squares
    weight = tensors[f"heads.{last}.weight"].reshape(per_place, columns, -1, 3, 3)
    weight[0, OFFSETS + 2, :, 1, 1] = 40 / weight.shape[2]
    bias[0, OFFSETS] = 5
    return ModelState.from_tensors(state.schema, tensors)
