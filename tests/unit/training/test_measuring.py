"""What a version answers to the golden batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedfleet.data.golden import golden_batch
from fedfleet.models.card import ModelCard
from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.training import measuring
from fedfleet.training.measuring import is_finite_on_golden
from fedfleet.training.state import initial_state
from fedfleet.types import InputSpec, ModelState

CARD = ModelCard(
    model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=())),
    inputs=InputSpec(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,)),
    classes=("dark", "bright"),
)
TEXT = replace(
    CARD,
    inputs=InputSpec.tokens(8, 4),
)


def with_weight(weight: float) -> ModelState:
    """Answers the sum of an image's pixels, times a number."""
    state = initial_state(CARD, 0)
    values = np.zeros_like(state.trainable)
    values[:128] = weight
    return replace(state, trainable=values)


def test_weights_that_overflow_on_some_images_only_are_not_finite() -> None:
    sums = golden_batch(CARD.inputs).reshape(8, -1).sum(axis=1) / 255
    largest = float(np.finfo(np.float32).max)
    # Half of the images are brighter than this, and half are darker.
    weight = largest / float(np.median(sums))

    assert (sums * weight > largest).sum() == 4
    assert not is_finite_on_golden(CARD, with_weight(weight))
    assert is_finite_on_golden(CARD, with_weight(0.9 * largest / float(sums.max())))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_answer_of_one_class_that_is_not_finite_is_enough(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answers = torch.zeros(len(images), 2)
            answers[-1, 1] = value
            return answers

    monkeypatch.setattr(measuring, "_built", lambda card, state: Odd())

    assert not is_finite_on_golden(CARD, with_weight(1.0))


def test_model_of_text_has_no_golden_batch() -> None:
    assert is_finite_on_golden(TEXT, with_weight(float("nan")))
