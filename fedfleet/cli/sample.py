"""One image that no worker has trained on, to ask the inference service about."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fedfleet.data.catalog import describe, open_dataset
from fedfleet.errors import DataMissing
from fedfleet.rounds.recipe import Recipe


@dataclass(frozen=True)
class Sample:
    """A test image as a PNG file's bytes, and what it shows."""

    png: bytes
    label: str


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
    pixels = images.load(np.array([row], dtype=np.int64))[0]
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = BytesIO()
    picture.save(file, format="PNG")
    return Sample(file.getvalue(), spec.classes[images.labels[row]])
