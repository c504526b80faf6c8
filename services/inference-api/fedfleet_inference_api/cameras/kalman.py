"""Where a followed box is, and how fast it goes: a Kalman filter of constant velocity.

As in SORT (Bewley et al. 2016, arXiv:1602.00763), with these differences: the state is centre,
width and height, each with its velocity; noise is a share of the box's own sides, so that near and
far things are treated alike and all four numbers share one covariance; and time is in seconds,
because frames come at any rate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedfleet_inference_api.cameras.seen import Box

Values = npt.NDArray[np.float64]

# Standard deviations, in sides of the box and in sides per second.
MEASURED = 0.06  # of a detector's box
FIRST_SPEED = 3.0  # of a thing that was seen once
ACCELERATION = 3.0  # per second squared
# A side is not predicted beyond these shares of the last one that was seen.
LEAST_GROWTH, MOST_GROWTH = 0.5, 2.0


class BoxFilter:
    """The filter of one thing.

    Args:
        box: where it was first seen.
        at_s: when that was.
    """

    def __init__(self, box: Box, at_s: float) -> None:
        self.at_s = at_s
        self._place = _centred(box)  # centre x, centre y, width, height
        self._speed = np.zeros(4)
        self._seen_sides = self._place[2:].copy()
        self._covariance = np.diag([MEASURED**2, FIRST_SPEED**2])  # of place and speed

    @property
    def box(self) -> Box:
        """Where it is now; may reach out of the frame."""
        x, y, width, height = self._place.tolist()
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def predict(self, at_s: float) -> None:
        """Move on to a time; one that is not later changes nothing (clocks are set back)."""
        passed_s = at_s - self.at_s
        if passed_s <= 0:
            return
        self.at_s = at_s
        self._place = self._place + passed_s * self._speed
        self._place[2:] = np.clip(
            self._place[2:], LEAST_GROWTH * self._seen_sides, MOST_GROWTH * self._seen_sides
        )
        step = np.array([[1.0, passed_s], [0.0, 1.0]])
        push = np.array([passed_s**2 / 2, passed_s])
        self._covariance = step @ self._covariance @ step.T + ACCELERATION**2 * np.outer(push, push)

    def correct(self, box: Box) -> None:
        """Take in where it was seen, at the time of the last prediction."""
        seen = _centred(box)
        gain = self._covariance[:, 0] / (self._covariance[0, 0] + MEASURED**2)
        wrong = seen - self._place
        self._place = self._place + gain[0] * wrong
        self._speed = self._speed + gain[1] * wrong
        self._covariance = self._covariance - np.outer(gain, self._covariance[0])
        self._seen_sides = seen[2:]
        self._place[2:] = np.clip(
            self._place[2:], LEAST_GROWTH * self._seen_sides, MOST_GROWTH * self._seen_sides
        )

    def rest(self, at_s: float) -> None:
        """Know that it has not moved up to a time."""
        self._speed = np.zeros(4)
        self.at_s = max(self.at_s, at_s)


def _centred(box: Box) -> Values:
    left, top, right, bottom = box
    return np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
