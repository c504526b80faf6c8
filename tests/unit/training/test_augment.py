import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import RecipeInvalid
from fedfleet.training.augment import Draws, augment, check_augment, draw
from fedfleet.training.seeding import torch_generator
from fedfleet.types import InputSpec

CPU = torch.device("cpu")


def test_draw_makes_nothing_without_augmentation() -> None:
    assert draw("none", 4, (8, 8), torch_generator(0)) is None


@given(seed=st.integers(0, 2**32), height=st.integers(1, 33), width=st.integers(1, 33))
def test_augment_equals_the_plain_definition(seed: int, height: int, width: int) -> None:
    images = torch.randint(1, 256, (5, 3, height, width), generator=torch_generator(seed))
    images = images.to(torch.uint8)
    draws = draw("flip-crop", 5, (height, width), torch_generator(seed))
    assert draws is not None
    assert draws.offset_N2 is not None

    out = augment(images, draws.part(0, 5, CPU)).numpy()

    pad_h, pad_w = height // 8, width // 8
    for place in range(5):
        padded = np.pad(images[place].numpy(), ((0, 0), (pad_h, pad_h), (pad_w, pad_w)))
        top, left = draws.offset_N2[place].tolist()
        want = padded[:, top : top + height, left : left + width]
        if draws.flip_N[place]:
            want = want[:, :, ::-1]
        assert np.array_equal(out[place], want)


def test_flip_mirrors_about_half_of_the_images() -> None:
    draws = draw("flip", 2000, (8, 8), torch_generator(1))

    assert draws is not None
    assert draws.offset_N2 is None
    assert 900 < int(draws.flip_N.sum()) < 1100


def test_crop_reaches_every_offset() -> None:
    draws = draw("flip-crop", 2000, (32, 16), torch_generator(1))

    assert draws is not None
    assert draws.offset_N2 is not None
    assert draws.offset_N2[:, 0].unique().tolist() == list(range(9))
    assert draws.offset_N2[:, 1].unique().tolist() == list(range(5))


def test_augment_leaves_its_input_alone() -> None:
    images = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    before = images.clone()

    flipped = augment(images, Draws(torch.tensor([True]), None))

    assert torch.equal(images, before)
    assert torch.equal(flipped, before.flip(3))


@pytest.mark.parametrize("kind", ["flip", "flip-crop"])
def test_augmenting_text_is_refused(kind: str) -> None:
    with pytest.raises(RecipeInvalid, match=f'training.augment = "{kind}": is of images'):
        check_augment(kind, InputSpec.tokens(5, 7))

    check_augment("none", InputSpec.tokens(5, 7))
    check_augment(kind, InputSpec(channels=1, height=2, width=2, mean=(0.0,), std=(1.0,)))
