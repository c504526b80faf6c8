from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedfleet.errors import RecipeInvalid
from fedfleet.models.catalog import build
from fedfleet.models.config import ResNetOptions


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_resnet18_without_batch_norm_has_no_state_but_parameters(make_card, norm):
    model = build(make_card("resnet18", ResNetOptions(norm=norm, width=0.1), (3, 32, 32)))

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


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("width", [0.0625, 0.1])
def test_resnet18_of_any_width_and_norm_learns(make_card, norm, width):
    torch.manual_seed(0)
    model = build(make_card("resnet18", ResNetOptions(norm=norm, width=width), (3, 16, 16)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 2

    losses = []
    for _ in range(8):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < losses[0] - 0.3


def test_resnet18_of_a_quarter_of_the_width_has_a_sixteenth_of_the_parameters(make_card):
    model = build(make_card("resnet18", ResNetOptions(norm="group", width=0.25), (3, 32, 32)))

    count = sum(p.numel() for p in model.parameters())
    assert 15.5 < 11_173_962 / count < 16.5
    assert model.get_submodule("output").in_features == 128


def test_resnet18_narrow_is_a_prefix_of_wide_in_every_tensor(make_card):
    wide, narrow = (
        build(make_card("resnet18", ResNetOptions(width=width), (3, 8, 8))).state_dict()
        for width in (0.25, 0.1)
    )

    assert list(wide) == list(narrow)
    for name, tensor in narrow.items():
        assert all(a <= b for a, b in zip(tensor.shape, wide[name].shape, strict=True)), name


def test_resnet18_without_norm_starts_as_its_shortcuts(make_card):
    torch.manual_seed(0)
    model = build(make_card("resnet18", ResNetOptions(norm="none", width=0.1), (3, 16, 16)))
    blocks = model.get_submodule("blocks")
    maps = torch.rand(1, 7, 16, 16)

    assert torch.equal(blocks[0](maps), maps)


def test_resnet18_refuses_groups_that_divide_no_layer(make_card):
    with pytest.raises(RecipeInvalid, match=r"model.groups = 3: does not divide the 64") as caught:
        build(make_card("resnet18", ResNetOptions(norm="group", groups=3)))

    assert caught.value.code == "RECIPE_INVALID"


def test_resnet18_takes_the_two_groups_of_feddyn(make_card):
    model = build(make_card("resnet18", ResNetOptions(norm="group", groups=2)))
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]

    assert len(norms) == 20
    assert {norm.num_groups for norm in norms} == {2}


def test_resnet18_of_heterofl_has_the_published_parameters(make_card):
    """9622, 2409, 604, 152, 38 thousand: Diao et al. 2021, and Flower's reproduction."""
    counts = []
    for width in (1.0, 0.5, 0.25, 0.125, 0.0625):
        options = ResNetOptions(width=width, blocks=(1, 1, 1, 2), preactivation=True)
        with torch.device("meta"):
            model = build(make_card("resnet18", options, (3, 32, 32)))
        counts.append(sum(p.numel() for p in model.parameters()))

    assert counts == [9_622_090, 2_408_746, 603_802, 151_762, 38_350]


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_resnet18_with_preactivation_learns_from_a_batch(make_card, norm):
    torch.manual_seed(0)
    options = ResNetOptions(norm=norm, width=0.125, blocks=(1, 1, 1, 2), preactivation=True)
    model = build(make_card("resnet18", options, (3, 16, 16)))
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    losses = []
    for _ in range(8):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("blocks", [(2, 2, 2), (2, 2, 2, 0), (1, 1, 1, 1, 1), (), (254, 1, 1, 1)])
def test_resnet18_refuses_blocks_of_other_than_four_stages(blocks):
    with pytest.raises(ValueError, match="four numbers of 1 or more, together 256 or fewer"):
        ResNetOptions(blocks=blocks)
