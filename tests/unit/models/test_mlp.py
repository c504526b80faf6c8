from __future__ import annotations

import torch
from torch import nn

from fedfleet.models.catalog import build
from fedfleet.models.config import MlpOptions


def test_mlp_without_hidden_layers_is_softmax_regression(make_card):
    model = build(make_card("mlp", MlpOptions(hidden=()), (1, 1, 4), classes=2))

    weight, bias = model.parameters()
    images = torch.arange(8.0).reshape(2, 1, 1, 4)

    assert weight.numel() + bias.numel() == 10
    torch.testing.assert_close(model(images), images.reshape(2, 4) @ weight.T + bias)


def test_mlp_stacks_the_hidden_layers(make_card):
    model = build(make_card("mlp", MlpOptions(hidden=(20, 30)), (3, 4, 5), classes=6))

    shapes = [tuple(p.shape) for p in model.parameters()]

    assert shapes == [(20, 60), (20,), (30, 20), (30,), (6, 30), (6,)]
    assert sum(isinstance(module, nn.ReLU) for module in model.modules()) == 2
