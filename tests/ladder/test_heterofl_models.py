"""The models' half of step 4 of the acceptance ladder (algorithms.md 7): HeteroFL's levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import CnnOptions, MlpOptions, ModelConfig, ResNetOptions
from fedfleet.training.scaler import scale_in_training
from fedfleet.training.state import load_state, schema_of, state_of
from fedfleet.training.submodels import SubModels
from fedfleet.types import InputSpec, Kind, ModelState

RATES = (1.0, 0.5, 0.25, 0.125, 0.0625)


def images(side: int, channels: int) -> InputSpec:
    return InputSpec(
        channels=channels, height=side, width=side, mean=(0.5,) * channels, std=(0.5,) * channels
    )


def card_of(architecture, options, inputs: InputSpec, classes: int = 10) -> ModelCard:
    model = ModelConfig(architecture=architecture, options=options)
    return ModelCard(model=model, inputs=inputs, classes=tuple(map(str, range(classes))))


def counts(card: ModelCard) -> list[int]:
    models = SubModels(card, RATES)
    return [models.schema(level).elements(Kind.TRAINABLE) for level in models.levels]


def test_resnet18_of_heterofl_has_the_published_parameters_by_level():
    """9622, 2409, 604, 152 and 38 thousand, as the authors' network has them.

    It is pre-activated and has 1, 1, 1 and 2 blocks; statistics are no parameters.
    """
    options = ResNetOptions(blocks=(1, 1, 1, 2), preactivation=True)

    found = counts(card_of("resnet18", options, images(32, 3)))

    assert [round(count / 1000) for count in found] == [9622, 2409, 604, 152, 38]


def test_resnet18_of_the_paper_has_a_quarter_of_the_parameters_per_level():
    """Each convolution is a square of the width; by closed form, and near r squared."""
    found = counts(card_of("resnet18", ResNetOptions(), images(32, 3)))

    want = []
    for rate in RATES:
        a, b, c, d = (int(channels * rate) for channels in (64, 128, 256, 512))
        stages = 4 * 9 * a * a + sum(
            9 * x * y + 3 * 9 * y * y + x * y for x, y in ((a, b), (b, c), (c, d))
        )
        norms = 2 * (5 * a + 5 * b + 5 * c + 5 * d)
        want.append(9 * 3 * a + stages + norms + 10 * d + 10)
    assert found == want
    assert found[0] == 11_173_962
    for rate, count in zip(RATES, found, strict=True):
        assert count / found[0] == pytest.approx(rate**2, rel=0.03 / rate**0.9)


@pytest.mark.parametrize(
    "card",
    [
        card_of("mlp", MlpOptions(hidden=(8,)), images(2, 1), 3),
        card_of("cnn", CnnOptions(hidden=16), images(4, 1), 3),
    ],
    ids=["mlp", "cnn"],
)
def test_coordinates_have_one_two_or_three_owners_and_the_rest_none(card):
    """Integer weights: what three levels hold is what one would pick by hand."""
    models = SubModels(card, (1.0, 0.5, 0.25))
    schema = models.schema("a")
    state = ModelState(
        schema,
        np.arange(schema.elements(Kind.TRAINABLE), dtype=np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
    )
    owners = np.zeros(schema.elements(Kind.TRAINABLE), int)

    for level in models.levels:
        cut = models.slice(level).cut(state).tensors()
        owners[models.slice(level).span(Kind.TRAINABLE)] += 1
        for name, wide in state.tensors().items():
            want = wide[tuple(slice(n) for n in cut[name].shape)]
            assert np.array_equal(cut[name], want), name

    assert set(owners) == {1, 2, 3}
    assert (owners == 3).sum() == models.schema("c").elements(Kind.TRAINABLE)
    assert (owners >= 2).sum() == models.schema("b").elements(Kind.TRAINABLE)


@pytest.mark.parametrize("level", ["b", "e"])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_scaler_gives_in_training_what_it_gives_in_evaluation_by_the_rate(norm, level):
    torch.manual_seed(0)
    models = SubModels(card_of("cnn", CnnOptions(norm=norm), images(8, 1)), RATES)
    card, rate = models.card(level), models.rate(level)
    module = build(card)
    scale_in_training(module, card, rate)
    given: dict[str, torch.Tensor] = {}
    for name, layer in module.named_children():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and name != "output":
            layer.register_forward_hook(lambda _, i, o, name=name: given.update({name: (i[0], o)}))

    module.train()(torch.randn(4, 1, 8, 8))

    assert list(given) == ["conv1", "conv2", "hidden"]
    for name, (inputs, output) in given.items():
        layer = module.get_submodule(name)
        assert torch.equal(output, layer.eval()(inputs) / rate)


def test_cut_of_a_level_loads_and_answers_as_the_wide_model_without_the_rest():
    torch.manual_seed(0)
    card = card_of("mlp", MlpOptions(hidden=(8,)), images(2, 1), 3)  # 4, 8, 3
    models = SubModels(card, (1.0, 0.5, 0.25))
    full = build(card)
    state = state_of(full, schema_of(full))
    inputs = torch.randn(5, 1, 2, 2)

    for level, units in (("b", 4), ("c", 2)):
        part = build(models.card(level))
        load_state(part, models.slice(level).cut(state))
        hidden = full.get_submodule("layers.1")(inputs.flatten(1)).relu()[:, :units]
        output = full.get_submodule("layers.3")
        want = hidden @ output.weight[:, :units].T + output.bias
        torch.testing.assert_close(part(inputs), want)
