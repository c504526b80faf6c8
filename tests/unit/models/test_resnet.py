from __future__ import annotations

import pytest
import torch
from torch import nn

from fedfleet.models.catalog import build
from fedfleet.models.config import ResNetOptions
from fedfleet.models.resnet import group_norm


def test_resnet18_with_group_norm_has_no_state_but_parameters(make_card):
    model = build(make_card("resnet18", ResNetOptions(norm="group"), (3, 32, 32)))

    assert list(model.buffers()) == []
    assert len(list(model.parameters())) == len(model.state_dict())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_resnet18_counts_eighteen_layers_with_weights(make_card):
    model = build(make_card("resnet18", ResNetOptions(norm="batch"), (3, 32, 32)))

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    projections = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]

    assert len(layers) - len(projections) == 18
    # torchvision's resnet18 for ten classes has 11,181,642; its 7x7 stem has 7,680 more.
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet18_keeps_a_four_by_four_map_of_a_small_image(make_card, norm):
    model = build(make_card("resnet18", ResNetOptions(norm=norm), (1, 32, 32), classes=5))
    maps = []
    model.get_submodule("blocks").register_forward_hook(lambda _m, _i, out: maps.append(out.shape))

    logits = model(torch.zeros(2, 1, 32, 32))

    assert logits.shape == (2, 5)
    assert maps == [(2, 512, 4, 4)]


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (512, 32), (48, 24), (20, 20), (7, 7)])
def test_group_norm_has_the_most_groups_that_divide(channels, groups):
    assert group_norm(channels).num_groups == groups
