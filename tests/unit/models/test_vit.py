from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fedfleet.errors import RecipeInvalid
from fedfleet.models.catalog import build
from fedfleet.models.config import VitOptions
from fedfleet.models.vit import Attention

TINY = VitOptions(patch=2, dim=16, depth=2, heads=2)


def test_vit_has_no_state_but_parameters(make_card):
    model = build(make_card("vit", VitOptions(), (3, 32, 32)))

    assert list(model.buffers()) == []
    assert len(list(model.named_parameters())) == len(model.state_dict())
    assert model.get_parameter("positions").shape == (64, 64)
    assert sum(p.numel() for p in model.parameters()) == 207_946


def test_attention_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    attention = Attention(12, 3)
    patches = torch.randn(2, 5, 12)

    query, key, value = (
        part.reshape(2, 5, 3, 4).transpose(1, 2) for part in attention.qkv(patches).chunk(3, 2)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value)
    want = attention.output(mixed.transpose(1, 2).reshape(2, 5, 12))

    torch.testing.assert_close(attention(patches), want)


def test_vit_learns(make_card):
    torch.manual_seed(0)
    model = build(make_card("vit", TINY, (1, 8, 8), classes=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 2
    images[labels == 1, :, :4] += 1.0

    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    assert (model(images).argmax(1) == labels).float().mean() > 0.9


def test_vit_knows_where_a_patch_stands(make_card):
    torch.manual_seed(0)
    model = build(make_card("vit", TINY, (1, 8, 8)))
    image = torch.zeros(1, 1, 8, 8)
    image[..., :2, :2] = 5.0

    assert not torch.allclose(model(image), model(image.flip(3)), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 9, 8), (1, 1, 4)])
def test_vit_refuses_images_that_patches_do_not_cover(make_card, shape):
    with pytest.raises(RecipeInvalid, match=r"model.patch = 2.*the data set has"):
        build(make_card("vit", TINY, shape))


@pytest.mark.parametrize("values", [{"patch": 0}, {"depth": 0}, {"dim": 10, "heads": 4}])
def test_vit_options_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        VitOptions(**values)
