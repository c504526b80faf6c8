from __future__ import annotations

import numpy as np
import pytest

from fedfleet.data.draws import Draws
from fedfleet.data.noise import add_noise, noise_level


def test_noise_level_grows_evenly_to_the_last_worker():
    levels = [noise_level(0.4, shard, 4) for shard in range(4)]

    np.testing.assert_allclose(levels, [0.1, 0.2, 0.3, 0.4])


def test_noise_level_is_of_the_last_workers_where_their_number_is_given():
    levels = [noise_level(0.4, shard, 5, noisy=2) for shard in range(5)]

    np.testing.assert_allclose(levels, [0.0, 0.0, 0.0, 0.2, 0.4])


@pytest.mark.parametrize("level", [0.02, 0.1])
def test_noise_is_gaussian_of_its_level(level):
    images = np.full((300, 1, 8, 8), 128, np.uint8)

    noise = (add_noise(images, level, Draws(1, "noise")).astype(float) - 128) / 255

    assert abs(noise.mean()) < 0.05 * level
    assert abs(noise.std() / level - 1) < 0.05
    assert abs((np.abs(noise) < level).mean() - 0.683) < 0.06  # of whole grey levels


def test_noisy_pixels_stay_pixels_and_the_images_as_they_were():
    images = np.array([[0, 255]], np.uint8).repeat(500, axis=0)

    noisy = add_noise(images, 0.5, Draws(1, "noise"))

    assert (images == [0, 255]).all()
    assert noisy.dtype == np.uint8
    # Half of the noise points off the range, and is cut off there: it does not wrap around.
    assert 0.4 < (noisy[:, 0] == 0).mean() < 0.6
    assert 0.4 < (noisy[:, 1] == 255).mean() < 0.6


def test_noise_of_no_images_is_none():
    assert add_noise(np.empty((0, 1, 2, 2), np.uint8), 0.5, Draws(1, "noise")).shape == (0, 1, 2, 2)
