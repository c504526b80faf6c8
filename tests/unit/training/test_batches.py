import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.shard import Examples
from fedfleet.errors import DataInvalid
from fedfleet.training.batches import Batches, batch_bounds, steps_per_epoch
from fedfleet.types import InputSpec

CPU = torch.device("cpu")
RGB = InputSpec(channels=3, height=2, width=4, mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 0.5))


def rgb(count: int) -> Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, 2, 4), dtype=np.uint8)
    return Examples(images, np.arange(count, dtype=np.int64) % 3)


@given(examples=st.integers(1, 300), batch_size=st.integers(1, 70))
def test_batch_bounds_cover_once_and_leave_no_single_example(
    examples: int, batch_size: int
) -> None:
    bounds = list(batch_bounds(examples, batch_size))
    sizes = [stop - start for start, stop in bounds]

    assert len(bounds) == steps_per_epoch(examples, batch_size)
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == examples
    assert all(size == batch_size for size in sizes[:-1])
    if batch_size > 1 and examples > 1:
        assert 2 <= sizes[-1] <= batch_size + 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_take_and_normalise_give_what_the_definition_says(channels_last: bool) -> None:
    examples = rgb(6)
    batches = Batches(examples, RGB, 3, CPU, channels_last=channels_last)
    chosen = torch.tensor([4, 0, 4])

    images, labels = batches.take(chosen)
    pixels = batches.normalise(images)

    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (RGB.mean, RGB.std))
    want = (examples.images[[4, 0, 4]] / 255 - mean) / std
    np.testing.assert_allclose(pixels.numpy(), want, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [1, 0, 1]
    assert images.dtype == torch.uint8
    assert pixels.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_batches_take_read_only_arrays() -> None:
    examples = rgb(4)
    examples.images.flags.writeable = False
    examples.labels.flags.writeable = False

    images, _ = Batches(examples, RGB, 3, CPU).take(slice(1, 3))

    assert np.array_equal(images.numpy(), examples.images[1:3])


@pytest.mark.parametrize(
    ("examples", "text"),
    [
        (Examples(np.zeros((2, 1, 2, 4), np.uint8), np.zeros(2, np.int64)), "the model expects"),
        (Examples(np.zeros((2, 3, 2, 4), np.float32), np.zeros(2, np.int64)), "float32"),
        (Examples(np.zeros((2, 3, 2, 4), np.uint8), np.zeros(3, np.int64)), "labels have shape"),
        (Examples(np.zeros((2, 3, 2, 4), np.uint8), np.array([0, 3])), "labels run from 0 to 3"),
        (Examples(np.zeros((2, 3, 2, 4), np.uint8), np.array([-1, 0])), "labels run from -1"),
    ],
)
def test_batches_refuse_data_that_do_not_fit_the_model(examples: Examples, text: str) -> None:
    with pytest.raises(DataInvalid, match=text) as caught:
        Batches(examples, RGB, 3, CPU)

    assert caught.value.code == "DATA_INVALID"


TEXT = InputSpec.tokens(5, 7)


def tokens(count: int = 3) -> Examples:
    images = (np.arange(count * 5) % 7).astype(np.uint8).reshape(count, 5)
    return Examples(images, np.arange(count, dtype=np.int64) % 3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_of_tokens_are_their_numbers(channels_last: bool) -> None:
    batches = Batches(tokens(), TEXT, 3, torch.device("cpu"), channels_last=channels_last)

    taken, labels = batches.take(torch.tensor([2, 0]))
    seen = batches.normalise(taken)

    assert seen.dtype == torch.int64
    assert np.array_equal(seen.numpy(), tokens().images[[2, 0]])
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (np.zeros((2, 4), np.uint8), "the model expects"),
        (np.zeros((2, 1, 1, 5), np.uint8), "the model expects"),
        (np.full((2, 5), 7, np.uint8), "tokens run to 7, the model knows 7"),
    ],
)
def test_batches_refuse_tokens_that_the_model_does_not_know(images: np.ndarray, text: str) -> None:
    with pytest.raises(DataInvalid, match=text):
        Batches(Examples(images, np.zeros(2, np.int64)), TEXT, 3, torch.device("cpu"))
