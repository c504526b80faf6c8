"""The golden batch: images on which every build of a version must agree.

They are drawn, not taken from anybody's data: the same on every machine, for every version of a
model, and no private image travels. Legend: G = images, C = channels, H, W = height, width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fedfleet.data.draws import Draws
from fedfleet.data.images import Pixels
from fedfleet.errors import InvalidInput
from fedfleet.types import InputSpec

GOLDEN = 8
_SEED = 20261121
_BLOBS = 4  # discs of an image

Shape = tuple[int, int, int]
Image = npt.NDArray[np.float64]  # shape (C, H, W), in [0, 1]


def golden_batch(inputs: InputSpec, count: int = GOLDEN) -> Pixels:
    """Draw the images of a model's input: uint8, shape (G, C, H, W).

    In turn a flat grey, a gradient, soft blobs and noise, each with colours of its own: between
    them they reach what a network does with edges, with areas and with neither.

    Raises:
        InvalidInput: the model reads no images.
    """
    if inputs.is_tokens:
        raise InvalidInput("a golden batch is of images; the model reads text")
    shape = (inputs.channels, inputs.height, inputs.width)
    images = np.empty((count, *shape), np.uint8)
    for number in range(count):
        make = _MAKERS[number % len(_MAKERS)]
        images[number] = np.rint(255 * make(Draws(_SEED, "golden", str(number)), shape))
    return images


def _flat(draws: Draws, shape: Shape) -> Image:
    return np.broadcast_to(draws.uniforms(shape[0])[:, None, None], shape)


def _gradient(draws: Draws, shape: Shape) -> Image:
    """From one colour to another, in a direction of its own."""
    channels, height, width = shape
    angle = 2 * np.pi * draws.uniforms(1)[0]
    y, x = np.mgrid[:height, :width]
    along = np.cos(angle) * (x + 0.5) / width + np.sin(angle) * (y + 0.5) / height
    share = (along - along.min()) / max(float(np.ptp(along)), 1e-9)
    ends = draws.uniforms(2 * channels).reshape(2, channels, 1, 1)
    gradient: Image = ends[0] + (ends[1] - ends[0]) * share
    return gradient


def _blobs(draws: Draws, shape: Shape) -> Image:
    """Soft discs that overlap on a dark ground."""
    channels, height, width = shape
    y, x = np.mgrid[:height, :width]
    image = np.zeros(shape)
    for _ in range(_BLOBS):
        across, down, size, *colour = draws.uniforms(3 + channels)
        spread = (0.1 + 0.3 * size) * max(height, width)
        away = (x - across * width) ** 2 + (y - down * height) ** 2
        image += np.array(colour)[:, None, None] * np.exp(-away / (2 * spread**2))
    clipped: Image = image.clip(0, 1)
    return clipped


def _noise(draws: Draws, shape: Shape) -> Image:
    return draws.uniforms(int(np.prod(shape))).reshape(shape)


_MAKERS: tuple[Callable[[Draws, Shape], Image], ...] = (_flat, _gradient, _blobs, _noise)
