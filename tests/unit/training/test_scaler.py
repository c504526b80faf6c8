from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import (
    CharLstmOptions,
    CnnOptions,
    MlpOptions,
    MobileNetOptions,
    ModelConfig,
    ResNetOptions,
)
from fedfleet.models.width import narrowed
from fedfleet.training.scaler import scale_in_training
from fedfleet.types import InputSpec

IMAGES = InputSpec(channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)


def card_of(architecture, options, inputs=IMAGES) -> ModelCard:
    model = ModelConfig(architecture=architecture, options=options)
    return ModelCard(model=model, inputs=inputs, classes=("a", "b", "c"))


CARDS = {
    "mlp": card_of("mlp", MlpOptions(hidden=(8, 6))),
    "cnn": card_of("cnn", CnnOptions(hidden=16)),
    "resnet18": card_of("resnet18", ResNetOptions(width=0.25)),
    "mobilenet_v3_small": card_of("mobilenet_v3_small", MobileNetOptions()),
    "char_lstm": card_of("char_lstm", CharLstmOptions(), InputSpec.tokens(5, 9)),
}
# What is divided in each: by HeteroFL's rule every hidden convolution and dense layer.
SCALED = {
    "mlp": ["layers.1", "layers.3"],
    "cnn": ["conv1", "conv2", "hidden"],
    "char_lstm": ["embedding"],
}


def scaled_layers(card: ModelCard, rate: float) -> tuple[nn.Module, list[str]]:
    small = replace(card, model=narrowed(card.model, rate))
    module = build(small)
    scale_in_training(module, small, rate)
    return module, [name for name, m in module.named_modules() if m._forward_hooks]


@pytest.mark.parametrize("name", list(SCALED))
def test_scaler_divides_hidden_layers_but_not_the_output(name):
    assert scaled_layers(CARDS[name], 0.25)[1] == SCALED[name]


def test_scaler_of_resnet18_divides_every_convolution():
    module, names = scaled_layers(CARDS["resnet18"], 0.5)

    convolutions = [n for n, m in module.named_modules() if isinstance(m, nn.Conv2d)]
    assert len(names) == 20
    assert names == convolutions


@pytest.mark.parametrize("rate", [0.5, 0.0625])
def test_scaler_of_mobilenet_leaves_depthwise_convolutions_alone(rate):
    _, names = scaled_layers(CARDS["mobilenet_v3_small"], rate)
    wide = build(CARDS["mobilenet_v3_small"])

    layers = {name: layer for name, layer in wide.named_modules() if isinstance(layer, nn.Conv2d)}
    depthwise = {name for name, layer in layers.items() if layer.groups > 1}
    assert len(depthwise) == 11
    assert set(names) == (layers.keys() - depthwise) | {"classifier.0"}
    assert len(names) == len(layers) - 11 + 1


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.0625])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_scaled_layer_gives_in_training_what_it_gives_in_evaluation_by_the_rate(name, rate):
    module, names = scaled_layers(CARDS[name], rate)

    for path in names:
        layer = module.get_submodule(path)
        shape = (2, layer.weight.shape[1], *((6, 6) if isinstance(layer, nn.Conv2d) else ()))
        inputs = torch.randn(shape)
        assert torch.equal(layer.train()(inputs), layer.eval()(inputs) / rate)


def test_scaler_keeps_the_mean_size_of_a_layers_sums():
    """What it is for: a quarter of the inputs, four times the weight of each."""
    torch.manual_seed(0)
    wide = build(card_of("mlp", MlpOptions(hidden=(512, 512)))).get_submodule("layers")
    narrow, _ = scaled_layers(card_of("mlp", MlpOptions(hidden=(512, 512))), 0.25)
    second = narrow.get_submodule("layers.3")
    with torch.no_grad():
        wide[3].weight.fill_(0.01)
        second.weight.fill_(0.01)
        wide[3].bias.zero_()
        second.bias.zero_()

    sums = wide[3](torch.ones(1, 512)), second.train()(torch.ones(1, 128))

    assert float(sums[1].mean().detach()) == pytest.approx(float(sums[0].mean().detach()), rel=1e-4)


def test_scaled_module_can_be_evaluated_as_if_there_were_no_scaler():
    torch.manual_seed(0)
    module, _ = scaled_layers(CARDS["cnn"], 0.5)
    plain = build(replace(CARDS["cnn"], model=narrowed(CARDS["cnn"].model, 0.5)))
    plain.load_state_dict(module.state_dict())
    images = torch.randn(2, 3, 16, 16)

    assert torch.equal(module.eval()(images), plain(images))
    assert not torch.equal(module.train()(images), plain(images))
