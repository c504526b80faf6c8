from __future__ import annotations

import pytest
import torch

from fedfleet.errors import RecipeInvalid
from fedfleet.models.catalog import build
from fedfleet.models.config import CnnOptions


def test_cnn_has_the_parameter_count_of_the_paper(make_card):
    model = build(make_card("cnn", CnnOptions(hidden=512), (1, 28, 28)))

    assert sum(p.numel() for p in model.parameters()) == 1_663_370


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 32, 32), (3, 5, 11)])
def test_cnn_takes_any_image_of_four_pixels_or_more(make_card, shape):
    model = build(make_card("cnn", CnnOptions(hidden=16), shape, classes=7))

    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(1, 3, 8), (1, 8, 3), (1, 1, 4)])
def test_cnn_refuses_smaller_images(make_card, shape):
    with pytest.raises(RecipeInvalid, match=r"4x4.*the data set has") as caught:
        build(make_card("cnn", CnnOptions(), shape))

    assert caught.value.code == "RECIPE_INVALID"


@pytest.mark.parametrize(
    ("norm", "buffers"), [("none", 0), ("group", 0), ("layer", 0), ("batch", 6)]
)
def test_cnn_has_a_norm_after_each_convolution(make_card, norm, buffers):
    model = build(make_card("cnn", CnnOptions(hidden=8, width=0.5, norm=norm), (1, 8, 8)))

    assert len(list(model.buffers())) == buffers
    assert len(model.state_dict()) == len(list(model.named_parameters())) + buffers
    assert ("norm2.weight" in model.state_dict()) == (norm != "none")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_cnn_scales_channels_and_units_with_its_width(make_card):
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in build(make_card("cnn", CnnOptions(width=0.25))).state_dict().items()
    }

    assert shapes["conv1.weight"] == (8, 1, 5, 5)
    assert shapes["conv2.weight"] == (16, 8, 5, 5)
    assert shapes["hidden.weight"] == (128, 64)
    assert shapes["output.weight"] == (10, 128)


def test_cnn_of_full_width_is_the_one_of_versions_before_there_were_widths(make_card):
    """Stored models load: the same names, in the same order, and the same first weights."""
    torch.manual_seed(1)
    model = build(make_card("cnn", CnnOptions(hidden=4), (1, 4, 4)))

    torch.manual_seed(1)
    layers = [torch.nn.Conv2d(1, 32, 5), torch.nn.Conv2d(32, 64, 5)]
    layers += [torch.nn.Linear(64, 4), torch.nn.Linear(4, 10)]
    assert [name.split(".")[0] for name in model.state_dict()][::2] == [
        *("conv1", "conv2", "hidden", "output")
    ]
    want = [tensor for layer in layers for tensor in layer.state_dict().values()]
    assert all(map(torch.equal, model.state_dict().values(), want))
