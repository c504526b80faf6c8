"""Noise on a worker's images: the feature skew of NIID-Bench (Li et al. 2022, arXiv:2102.02079,
section 4.2), where every worker's camera is a little worse than the one before.

Differs from it in that the noise is drawn once, as data that a device has, not anew in each epoch,
and that noisy pixels stay pixels: whole numbers from 0 to 255.
"""

from __future__ import annotations

import numpy as np

from fedfleet.data.draws import Draws
from fedfleet.data.images import Pixels

_AT_ONCE = 256  # images: normal variates take 8 bytes each where a pixel takes one


def noise_level(strongest: float, shard: int, workers: int, noisy: int | None = None) -> float:
    """The standard deviation of a shard's noise, as a share of the pixels' range.

    Args:
        strongest: that of the last shard.
        shard: from 0.
        noisy: how many shards have noise, the last ones; None means all.
    """
    noisy = workers if noisy is None else noisy
    return strongest * max(0, shard + 1 - (workers - noisy)) / noisy


def add_noise(images: Pixels, level: float, draws: Draws) -> Pixels:
    """Return the images with Gaussian noise of mean 0 and that level on each pixel.

    Args:
        images: uint8, any shape; not changed.
    """
    noisy = np.empty_like(images)
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        noise = 255 * level * draws.normals(part.size).reshape(part.shape)
        noisy[start : start + _AT_ONCE] = np.rint(part + noise).clip(0, 255)
    return noisy
