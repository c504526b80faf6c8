"""Trains ``ssd_tiny`` on ``shapes`` in this process for a while, for benchmarks that need a
detector which sees something; ``recipes/shapes.toml`` is how it is done well.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from fedfleet.data.boxes import NO_BOX
from fedfleet.data.config import ShapesOptions
from fedfleet.data.shapes import SHAPES
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build_initial
from fedfleet.models.config import ModelConfig, SsdTinyOptions
from fedfleet.training.detection import DetectionObjective
from fedfleet.training.state import schema_of, state_of
from fedfleet.types import InputSpec, ModelState

PICTURES, BATCH, LR = 1200, 16, 0.002


def card() -> ModelCard:
    """``ssd_tiny`` at full width for the shapes."""
    spec = SHAPES.describe(ShapesOptions(samples=PICTURES))
    return ModelCard(
        model=ModelConfig(architecture="ssd_tiny", options=SsdTinyOptions()),
        inputs=spec.inputs,
        classes=tuple(spec.classes),
        kind="detection",
    )


def train(seconds: float) -> tuple[ModelState, float]:
    """The weights after so many seconds, and the mean loss of the last steps.

    The learning rate falls with the time, so how good they are depends on the machine.
    """
    torch.manual_seed(0)
    model_card = card()
    images, boxes = _pictures()
    module = build_initial(model_card).train()
    objective = DetectionObjective(model_card)
    optimizer = torch.optim.Adam(module.parameters(), lr=LR)
    rng = np.random.default_rng(0)
    losses: list[float] = []
    start_s = time.monotonic()
    while (share := (time.monotonic() - start_s) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - 0.95 * share)
        rows = rng.choice(len(images), BATCH, replace=False)
        batch = _normalised(images[rows], model_card.inputs)
        loss = objective.loss(module(batch), torch.from_numpy(boxes[rows]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return state_of(module, schema_of(module)), float(np.mean(losses[-20:]))


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """All pictures and their boxes, and as many again from right to left."""
    split = SHAPES.open(ShapesOptions(samples=PICTURES), "train", None)
    rows = np.arange(PICTURES)
    images, boxes = split.load(rows), split.load_boxes(rows)  # type: ignore[attr-defined]
    turned = boxes.copy()
    turned[..., 1], turned[..., 3] = 1 - boxes[..., 3], 1 - boxes[..., 1]
    turned[boxes[..., 0] == NO_BOX] = (NO_BOX, 0, 0, 0, 0)
    return np.concatenate([images, images[..., ::-1]]), np.concatenate([boxes, turned])


def _normalised(images: np.ndarray, inputs: InputSpec) -> torch.Tensor:
    mean, std = (
        np.asarray(each, np.float32).reshape(1, -1, 1, 1) for each in (inputs.mean, inputs.std)
    )
    return torch.from_numpy((images / np.float32(255) - mean) / std)
