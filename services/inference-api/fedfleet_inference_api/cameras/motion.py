"""The motion gate: whether, and where, a picture differs from what the camera usually shows.

Works on a picture of about 100 rows, as Frigate's does: a running average is the background, what
differs from it by 30 of 255 is motion. Ours compares colours and not only greys, keeps time in
seconds, since frames come at any rate, and explains a change of light before it calls anything
motion.

Legend: H, W = size of the frame, h, w = size of the small picture, 3 = red, green, blue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfleet.data.images import Pixels
from fedfleet_inference_api.cameras.labelling import Mask, find_regions
from fedfleet_inference_api.cameras.regions import merge_regions
from fedfleet_inference_api.cameras.seen import Box

Small = npt.NDArray[np.float32]  # shape (3, h, w), from 0 to 255

ROWS = 100
THRESHOLD = 30.0  # of 255 in any colour, after the contrast has been stretched
NOISE_FACTOR = 5.0  # of a picture's own noise: what is below is not motion either
MOST_GAIN = 3.0  # how far the contrast of a dull picture is stretched
SMALLEST_AREA = 16  # pixels of the small picture, after they grew by one: about 2 by 2
LIGHT_SHARE = 0.8  # when more of the picture changes at once it is light, or another scene:
UNEXPLAINED_SHARE = 0.25  # the latter, where no light explains so much of it
BACKGROUND_S = 20.0  # time constant of the average: 0.01 for each frame at 5 per second
LEARNING_S = 0.9  # the same while a scene is new, and where a changed pixel has settled
SETTLED_S = 2.0  # how long a changed pixel stays as it is until it is learned fast
CALIBRATION_S = 1.0  # a new scene is learned for so long,
CALIBRATION_FRAMES = 4  # and for so many frames,
CALIBRATED_SHARE = 0.05  # and until no more than this still changes,
LONGEST_CALIBRATION_S = 10.0  # but no longer.
SAMPLED = 4  # each fourth row and column is enough for percentiles


@dataclass(frozen=True)
class Motion:
    """What the gate says of a frame.

    Args:
        regions: where something moves, the largest first; empty: the picture is quiet.
        share: how much of the picture changed.
        is_learning: the scene is new, so that nothing can be said of regions yet.
    """

    regions: tuple[Box, ...]
    share: float
    is_learning: bool

    @property
    def is_quiet(self) -> bool:
        return not self.regions and not self.is_learning


class MotionGate:
    """Of one camera; each frame is shown to it once."""

    def __init__(self) -> None:
        # All of the last frame's size; empty before the first.
        self._background: Small = np.zeros((3, 0, 0), np.float32)
        self._last = self._background
        self._still_since_s: npt.NDArray[np.float64] = np.zeros((0, 0))
        self._at_s = 0.0
        self._learning_since_s = 0.0
        self._learned_frames = 0
        self._is_learning = True

    def look(self, pixels: Pixels, at_s: float) -> Motion:
        """Compare a frame with the background, and learn from it.

        Args:
            pixels: uint8, shape (H, W, 3).
            at_s: when it was taken; a time before the last frame's counts as the same time.
        """
        picture = blur(small_picture(pixels))
        if picture.shape != self._background.shape:
            return self._begin(picture, at_s)
        passed_s = max(0.0, at_s - self._at_s)
        self._at_s = at_s
        gain = _gain(self._background)
        raw = _exceeds(gain * (picture - self._background))
        changed = self._explained(picture, raw, gain) if raw.any() else raw
        share = float(changed.mean())
        if raw.mean() > LIGHT_SHARE and share > UNEXPLAINED_SHARE:
            return self._begin(picture, at_s)
        self._learn(picture, changed, gain, passed_s)
        if self._is_learning:
            self._end_learning(share)
            return Motion((), share, True)
        return Motion(_boxes(changed), share, False)

    def _begin(self, picture: Small, at_s: float) -> Motion:
        """Take a picture for the background of a new scene."""
        self._background = picture.copy()
        self._last = picture
        self._still_since_s = np.full(picture.shape[1:], at_s)
        if not self._is_learning or not self._learned_frames:
            self._learning_since_s = at_s
        self._at_s = at_s
        self._learned_frames = 1
        self._is_learning = True
        return Motion((), 1.0, True)

    def _end_learning(self, share: float) -> None:
        self._learned_frames += 1
        passed_s = self._at_s - self._learning_since_s
        is_known = (
            passed_s >= CALIBRATION_S
            and self._learned_frames > CALIBRATION_FRAMES
            and share <= CALIBRATED_SHARE
        )
        self._is_learning = not (is_known or passed_s >= LONGEST_CALIBRATION_S)

    def _explained(self, picture: Small, changed: Mask, gain: float) -> Mask:
        """Which of the changed pixels no change of light explains."""
        # Of all explanations the one that leaves least to motion.
        for background in (_shifted(self._background, picture), _fitted(self._background, picture)):
            left = _exceeds(gain * (picture - background))
            if left.sum() < changed.sum() / 2:
                changed, self._background = left, background
        return changed

    def _learn(self, picture: Small, changed: Mask, gain: float, passed_s: float) -> None:
        """Move the background towards a picture: fast where it is new and stays as it is."""
        steps = np.abs(gain * (picture - self._last)).max(axis=0)
        self._still_since_s[steps > THRESHOLD / 2] = self._at_s
        is_settled = changed & (self._at_s - self._still_since_s >= SETTLED_S)
        slow = _rate(passed_s, LEARNING_S if self._is_learning else BACKGROUND_S)
        fast = max(slow, _rate(passed_s, LEARNING_S))
        rates = np.where(is_settled, np.float32(fast), np.float32(slow))
        self._background = self._background + rates * (picture - self._background)
        self._last = picture


def small_picture(pixels: Pixels, rows: int = ROWS) -> Small:
    """About ``rows`` rows of a frame, each pixel the mean of up to 9 of its block.

    Args:
        pixels: uint8, shape (H, W, 3). Less than a block at the right and lower edge is left out.
    """
    step = max(1, round(pixels.shape[0] / rows))
    high, wide = pixels.shape[0] // step, pixels.shape[1] // step
    places = sorted({min(step - 1, (2 * part + 1) * step // 6) for part in range(3)})
    total = np.zeros((high, wide, 3), np.uint16)
    for row in places:
        for column in places:
            total += pixels[row : high * step : step, column : wide * step : step][:high, :wide]
    small: Small = total.transpose(2, 0, 1).astype(np.float32, order="C")
    small /= len(places) ** 2
    return small


def blur(picture: Small) -> Small:
    """The mean of 3 by 3 pixels; the edge is repeated outwards."""
    edged = np.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
    columns = edged[:, :, :-2] + edged[:, :, 1:-1] + edged[:, :, 2:]
    whole: Small = (columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]) / np.float32(9)
    return whole


def _sampled(picture: Small) -> Small:
    """Some pixels of each colour, shape (3, n)."""
    return picture[:, ::SAMPLED, ::SAMPLED].reshape(3, -1)


def _gain(background: Small) -> float:
    """How far the contrast is stretched, by the colour that has most of it."""
    low, high = np.percentile(_sampled(background), (4, 96), axis=1)
    return float(min(MOST_GAIN, 255.0 / max(float((high - low).max()), 1.0)))


def _exceeds(delta: Small) -> Mask:
    """Which pixels (h, w) differ by more than the threshold, and by more than the noise."""
    size = np.abs(delta)
    noise = 1.4826 * float(np.median(_sampled(size)))
    # A picture of which half changed has no noise to measure: the threshold stays in reach.
    mask: Mask = size.max(axis=0) > max(THRESHOLD, min(NOISE_FACTOR * noise, 2 * THRESHOLD))
    return mask


def _shifted(background: Small, picture: Small) -> Small:
    """The background if each colour had changed by the same amount everywhere."""
    by = np.median(_sampled(picture - background), axis=1)
    shifted: Small = background + by[:, np.newaxis, np.newaxis]
    return shifted


def _fitted(background: Small, picture: Small) -> Small:
    """The background if exposure had changed: for each colour another gain and another offset."""
    low, middle, high = _quartiles(background)
    new_low, new_middle, new_high = _quartiles(picture)
    gain = ((new_high - new_low) / np.maximum(high - low, 1.0)).clip(0.25, 4.0)
    fitted: Small = (background - middle) * gain + new_middle
    return fitted


def _quartiles(picture: Small) -> Small:
    """Three for each colour, shape (3, 3, 1, 1), the lower ones first."""
    quartiles = np.percentile(_sampled(picture), (25, 50, 75), axis=1)
    return quartiles.astype(np.float32)[:, :, np.newaxis, np.newaxis]


def _rate(passed_s: float, constant_s: float) -> float:
    return 1.0 - math.exp(-passed_s / constant_s)


def _boxes(changed: Mask) -> tuple[Box, ...]:
    """The regions of changed pixels that are large enough, merged, as shares of the frame."""
    edged = np.pad(changed, 1)
    columns = edged[:, :-2] | edged[:, 1:-1] | edged[:, 2:]
    regions = find_regions(columns[:-2] | columns[1:-1] | columns[2:])
    kept = regions.boxes[regions.areas >= SMALLEST_AREA]
    high, wide = changed.shape
    shares = kept / np.array([wide, high, wide, high])
    return merge_regions([(box[0], box[1], box[2], box[3]) for box in shares.tolist()])
