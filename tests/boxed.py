"""Small pictures with boxes that a detector can be trained on: a bright square or a dark one."""

from __future__ import annotations

import numpy as np

from fedfleet.data.boxes import label_of_largest, pad_boxes
from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.models.config import ModelConfig, SsdTinyOptions
from fedfleet.types import InputSpec

SIDE = 32
CARD = ModelCard(
    model=ModelConfig(architecture="ssd_tiny", options=SsdTinyOptions(width=0.125)),
    inputs=InputSpec(channels=3, height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3),
    classes=("bright", "dark"),
    kind="detection",
)


def squares(count: int, seed: int = 0, most: int = 2) -> Examples:
    """Pictures of none to ``most`` squares, one in each half."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 140, (count, 3, SIDE, SIDE), dtype=np.uint8)
    boxes = []
    for image in images:
        rows = []
        for half in range(int(rng.integers(0, most + 1))):
            side, label = int(rng.integers(8, 14)), int(rng.integers(0, 2))
            left = 16 * half + int(rng.integers(0, 17 - side))
            top = int(rng.integers(0, SIDE - side))
            image[:, top : top + side, left : left + side] = 250 if label == 0 else 5
            rows.append((label, left, top, left + side, top + side))
        found = np.array(rows, np.float32).reshape(-1, 5)
        found[:, 1:] /= SIDE
        boxes.append(found)
    padded = pad_boxes(boxes)
    return Examples(images, label_of_largest(padded), padded)
