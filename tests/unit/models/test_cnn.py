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
