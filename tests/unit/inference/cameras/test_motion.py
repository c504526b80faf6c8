from __future__ import annotations

from copy import deepcopy
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.data.images import Pixels
from fedfleet_inference_api.cameras.motion import Motion, MotionGate, small_picture
from fedfleet_inference_api.cameras.overlap import meet

HEIGHT, WIDTH, FPS = 180, 320, 5.0


@lru_cache
def scene(seed: int) -> Pixels:
    """A textured ground of middling greys, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(70, 180, (HEIGHT // 20, WIDTH // 20, 3), np.uint8)
    return coarse.repeat(20, axis=0).repeat(20, axis=1)


@lru_cache
def plate() -> np.ndarray:
    """Noise larger than a frame, of which each frame shows another part."""
    return np.random.default_rng(0).normal(0, 1, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.float32)


def noisy(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    down, right = rng.integers(0, 64, 2)
    noise = plate()[down : down + HEIGHT, right : right + WIDTH]
    return (pixels + np.float32(sigma) * noise).clip(0, 255).astype(np.uint8)


class Film:
    """A camera's frames at 5 per second, shown to a gate."""

    def __init__(self) -> None:
        self.gate = MotionGate()
        self.at_s = 1e6

    def show(self, pixels: Pixels, seconds: float = 1 / FPS, *, sigma: float = 0.0) -> list[Motion]:
        rng = np.random.default_rng(round(self.at_s))
        found = []
        for _ in range(round(seconds * FPS)):
            self.at_s += 1 / FPS
            shown = noisy(pixels, sigma, rng) if sigma else pixels
            found.append(self.gate.look(shown, self.at_s))
        return found


@lru_cache
def _calibrated(seed: int, sigma: float) -> Film:
    film = Film()
    assert film.show(scene(seed), 2.0, sigma=sigma)[-1].is_quiet
    return film


def calibrated(seed: int, *, sigma: float = 0.0) -> Film:
    """One that has learnt a scene; the caller's own."""
    return deepcopy(_calibrated(seed, sigma))


def with_block(pixels: Pixels, left: int, top: int, size: int, change: int) -> Pixels:
    shown = pixels.astype(np.int16)
    shown[top : top + size, left : left + size] += change
    return shown.clip(0, 255).astype(np.uint8)


def test_gate_learns_a_scene_before_it_says_anything_of_it():
    film = Film()

    first, *others = film.show(scene(0), 3.0)

    assert first.is_learning
    assert not first.is_quiet
    assert [motion.is_learning for motion in others].index(False) in range(3, 8)
    assert others[-1] == Motion((), 0.0, False)


@settings(max_examples=40)
@given(
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    size=st.integers(8, 80),
    change=st.sampled_from([-60, 60]),
    seed=st.integers(0, 3),
    sigma=st.sampled_from([0.0, 6.0]),
)
def test_gate_finds_a_new_block_anywhere(
    place: tuple[float, float], size: int, change: int, seed: int, sigma: float
):
    left, top = int(place[0] * (WIDTH - size)), int(place[1] * (HEIGHT - size))
    film = calibrated(seed, sigma=sigma)

    (motion,) = film.show(with_block(scene(seed), left, top, size, change), sigma=sigma)

    box = (left / WIDTH, top / HEIGHT, (left + size) / WIDTH, (top + size) / HEIGHT)
    assert len(motion.regions) == 1
    found = motion.regions[0]
    assert found[0] <= box[0]
    assert found[1] <= box[1]
    assert found[2] >= box[2]
    assert found[3] >= box[3]
    # Nor much more than the block: 2 % of padding and 3 pixels of the small picture.
    assert max(box[0] - found[0], found[2] - box[2], box[1] - found[1], found[3] - box[3]) < 0.07


@settings(max_examples=12)
@given(sigma=st.floats(0, 25), seed=st.integers(0, 9))
def test_gate_is_quiet_on_noise(sigma: float, seed: int):
    film = calibrated(seed, sigma=sigma)

    assert all(motion.is_quiet for motion in film.show(scene(seed), 2.0, sigma=sigma))


@settings(max_examples=30)
@given(gain=st.floats(0.6, 1.4), offset=st.floats(-50, 50), seed=st.integers(0, 9))
def test_gate_takes_a_change_of_light_for_no_motion(gain: float, offset: float, seed: int):
    film = calibrated(seed)
    lit = (scene(seed) * gain + offset).clip(0, 255).astype(np.uint8)

    found = film.show(lit, 1.0)

    assert all(not motion.regions for motion in found)
    assert found[-1].is_quiet


def test_gate_sees_through_a_change_of_light():
    film = calibrated(1)
    lit = (scene(1) * 0.9 + 35).clip(0, 255).astype(np.uint8)

    (motion,) = film.show(with_block(lit, 200, 60, 40, -60))

    assert len(motion.regions) == 1
    assert meet(motion.regions[0], [(210 / WIDTH, 70 / HEIGHT, 230 / WIDTH, 90 / HEIGHT)])


def test_gate_learns_anew_when_nearly_all_changes_at_once():
    film = calibrated(2)

    flash = film.show(np.where(scene(9) > 125, 0, 255).astype(np.uint8))[0]

    assert flash.is_learning
    assert not flash.regions


def test_gate_is_quiet_again_soon_after_the_camera_was_turned():
    film = calibrated(3)

    found = film.show(scene(4), 8.0)

    assert found[0].regions or found[0].is_learning
    assert all(motion.is_quiet for motion in found[-10:])


def test_gate_forgets_what_came_to_rest_within_seconds_and_notices_that_it_goes():
    film = calibrated(5)
    parked = with_block(scene(5), 100, 100, 50, 60)

    found = film.show(parked, 8.0)
    assert found[0].regions
    assert found[5].regions
    assert all(motion.is_quiet for motion in found[-10:])

    assert film.show(scene(5))[0].regions


def test_gate_keeps_seeing_what_keeps_moving():
    film = calibrated(6)

    for step in range(100):
        left = 20 + 5 * (step % 40)
        assert film.show(with_block(scene(6), left, 80, 30, 60))[0].regions


def test_gate_begins_again_with_frames_of_another_size():
    film = calibrated(0)

    (motion,) = film.show(np.ascontiguousarray(scene(0)[:, :200]))

    assert motion.is_learning


def test_gate_survives_a_clock_that_is_set_back():
    film = calibrated(0)
    film.at_s -= 3600

    assert all(motion.is_quiet for motion in film.show(scene(0), 2.0))
    assert film.show(with_block(scene(0), 50, 50, 40, 60))[0].regions


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (480, 640), (240, 320), (90, 160)])
def test_small_picture_has_about_a_hundred_rows(size: tuple[int, int]):
    colour = np.array([200, 100, 50])

    picture = small_picture(np.full((*size, 3), colour, np.uint8))

    assert 80 <= picture.shape[1] <= 125
    assert picture.shape[2] / picture.shape[1] == pytest.approx(size[1] / size[0], rel=0.02)
    assert np.allclose(picture, colour[:, np.newaxis, np.newaxis])


def test_gate_sees_colours_of_the_same_brightness():
    ground = np.full((HEIGHT, WIDTH, 3), 112, np.uint8)
    film = Film()
    assert film.show(ground, 2.0)[-1].is_quiet
    painted = ground.copy()
    painted[60:120, 100:180] = (230, 60, 40)

    assert len(film.show(painted)[0].regions) == 1


def test_gate_takes_another_white_balance_for_no_motion():
    film = calibrated(7)
    warmer = (scene(7) * np.array([1.2, 1.0, 0.7])).clip(0, 255).astype(np.uint8)

    assert all(not motion.regions for motion in film.show(warmer, 1.0))
