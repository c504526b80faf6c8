"""One image that no worker has trained on, to ask the inference service about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.data.images import BoxedImages
from fedfleet.errors import DataMissing
from fedfleet.rounds.recipe import Recipe


@dataclass(frozen=True)
class Sample:
    """A test image as a PNG file's bytes, and what it shows.

    Args:
        labels: of the image, one; where it has boxes, of each of them.
    """

    png: bytes
    labels: tuple[str, ...]

    def verdict(self, answer: dict[str, Any]) -> str:
        """What is true of the image, and whether the service said so. Any: the answer is JSON."""
        if answer.get("detections") is None:
            [label] = self.labels
            is_right = answer["predictions"][0]["label"] == label
            return f"true label: {label} ({'right' if is_right else 'wrong'})"
        answered = Counter(item["label"] for item in answer["detections"])
        named = sum((Counter(self.labels) & answered).values())
        return f"truly there: {', '.join(self.labels)} ({named} of {len(self.labels)} named)"


def held_out_image(recipe: Recipe, data_dir: Path | None) -> Sample | None:
    """Take one image of the test split; None where this machine has no test split.

    Raises:
        DataMissing: the coordinator is to evaluate on the test split, and it is not there.
        DataInvalid, DataEmpty, UnknownDataset: as ``open_dataset``.
    """
    spec = describe(recipe.data)
    if spec.inputs.channels not in (1, 3):
        return None
    try:
        images = open_dataset(recipe.data, "test", data_dir)
    except DataMissing:
        if recipe.evaluation.coordinator:
            raise
        return None
    row = recipe.seed % len(images.labels)
    labels: tuple[str, ...] = (spec.classes[images.labels[row]],)
    if spec.kind == "detection" and isinstance(images, BoxedImages):
        boxes = images.load_boxes(np.arange(len(images.labels), dtype=np.int64))
        filled = np.flatnonzero((boxes[:, :, 0] >= 0).any(axis=1))
        row = int(filled[recipe.seed % len(filled)])  # an open split holds a box
        labels = tuple(spec.classes[int(label)] for label in boxes[row, :, 0] if label >= 0)
    pixels = images.load(np.array([row], dtype=np.int64))[0]
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = BytesIO()
    picture.save(file, format="PNG")
    return Sample(file.getvalue(), labels)
