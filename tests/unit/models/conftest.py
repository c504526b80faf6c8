from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedfleet.models.card import ModelCard
from fedfleet.models.config import ModelConfig
from fedfleet.types import InputSpec

MakeCard = Callable[..., ModelCard]


@pytest.fixture
def make_card() -> MakeCard:
    """A card by architecture, options, input shape and number of classes."""

    def make(
        architecture: str, options: Any, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10
    ) -> ModelCard:
        channels, height, width = shape
        inputs = InputSpec(
            channels=channels,
            height=height,
            width=width,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
        )
        model = ModelConfig(architecture=architecture, options=options)
        names = tuple(f"class{number}" for number in range(classes))
        return ModelCard(model=model, inputs=inputs, classes=names)

    return make
