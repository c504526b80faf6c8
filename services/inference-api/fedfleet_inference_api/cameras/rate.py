"""When a camera's next frame is due, by measured time: what a camera announces is often wrong."""

from __future__ import annotations

# A share of a period early is not early: frames come with some jitter, and one that waits ages.
EARLY = 0.25


class Pace:
    """At most ``fps`` frames per second on average, and never two at once to catch up.

    Args:
        fps: above 0.
    """

    def __init__(self, fps: float) -> None:
        self._period_s = 1.0 / fps
        self._due_s = -float("inf")

    @property
    def due_s(self) -> float:
        """From when on a frame may be taken; minus infinity before the first."""
        return self._due_s - EARLY * self._period_s

    def is_due(self, now_s: float) -> bool:
        """Whether a frame may be taken now, in seconds of a clock that only grows."""
        return now_s >= self.due_s

    def take(self, now_s: float) -> None:
        """A frame was taken. The next one's time keeps the grid unless that is a period behind."""
        behind = now_s - self._due_s >= self._period_s
        self._due_s = (now_s if behind else self._due_s) + self._period_s
