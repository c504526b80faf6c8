from __future__ import annotations

import pytest
import torch

from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import BUILT_IN, OF_TEXT, MlpOptions, ModelConfig
from fedfleet.training.card_schema import schema_of_card
from fedfleet.training.state import schema_of
from fedfleet.types import InputSpec

IMAGES = InputSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
TEXT = InputSpec.tokens(length=12, vocabulary=90)
SMALL = ("char_lstm", "cnn", "mlp", "mobilenet_v3_small", "resnet18", "vit")


@pytest.mark.parametrize("name", SMALL)
def test_schema_of_a_card_is_that_of_its_built_model(name: str) -> None:
    card = ModelCard(
        model=ModelConfig(architecture=name, options=BUILT_IN[name]()),
        inputs=TEXT if name in OF_TEXT else IMAGES,
        classes=("a", "b", "c"),
    )
    before = torch.get_rng_state()

    found = schema_of_card(card)

    assert torch.equal(torch.get_rng_state(), before)
    assert found == schema_of(build(card))


def an_mlp(options: MlpOptions) -> ModelCard:
    return ModelCard(
        model=ModelConfig(architecture="mlp", options=options), inputs=IMAGES, classes=("a", "b")
    )


def test_schema_of_a_model_that_fits_no_memory_is_found() -> None:
    card = an_mlp(MlpOptions(hidden=(1 << 20, 1 << 20)))

    assert max(param.elements for param in schema_of_card(card).params) == 1 << 40


def test_model_that_torch_cannot_describe_is_refused_in_a_line() -> None:
    options = MlpOptions()
    # As a plug-in's options may say: those of a built-in architecture are bounded.
    object.__setattr__(options, "hidden", (10**12, 10**12))

    with pytest.raises(RecipeInvalid, match='model "mlp" cannot be built') as caught:
        schema_of_card(an_mlp(options))

    assert len(caught.value.message) <= 300
