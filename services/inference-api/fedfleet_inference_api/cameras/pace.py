"""When a frame is wanted, how fast a stream is, and whether it has fallen behind. No I/O.

Times are seconds of one clock that only grows; a stream's own times are seconds of its own.
"""

from __future__ import annotations

from collections import deque

BEHIND_S = 1.0
CAUGHT_UP_S = 0.3
# A stream whose clock jumps further than this has another clock.
JUMP_S = 10.0
# Longer than this nothing is thrown away: the stream is late, and stays so.
MOST_CATCHING_UP_S = 3.0
MOST_OPENING_S = 8.0
WINDOW_S = 5.0
_MOST_TIMES = 1024


class Rate:
    """Says of each frame whether it is wanted, so that ``fps`` of them are in a second."""

    def __init__(self, fps: float) -> None:
        self._interval_s = 1 / fps
        self._due_s = 0.0

    def wants(self, now_s: float) -> bool:
        # A tenth of an interval early is not early: frames come with some jitter.
        if now_s < self._due_s - 0.1 * self._interval_s:
            return False
        is_late = now_s - self._due_s > self._interval_s
        self._due_s = (now_s if is_late else self._due_s) + self._interval_s
        return True


class Meter:
    """Measures frames per second over the last seconds."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=_MOST_TIMES)

    def count(self, now_s: float) -> None:
        self._times_s.append(now_s)
        while now_s - self._times_s[0] > WINDOW_S:
            self._times_s.popleft()

    @property
    def fps(self) -> float:
        span_s = self._times_s[-1] - self._times_s[0] if self._times_s else 0.0
        return (len(self._times_s) - 1) / span_s if span_s > 0 else 0.0


class Opening:
    """Skips packets before the first key, and frames before the first whole one: grey pictures.

    Not for ever: there are encoders that send no keys, and refresh the picture by parts.
    """

    def __init__(self) -> None:
        self._until_s: float | None = None
        self._is_over = False

    def skips(self, now_s: float, *, is_over: bool) -> bool:
        if self._until_s is None:
            self._until_s = now_s + MOST_OPENING_S
        self._is_over = self._is_over or is_over or now_s >= self._until_s
        return not self._is_over


class Lag:
    """Finds out that packets wait to be decoded, and says which to throw away until none does.

    A packet's delay is how much later it came, by its time stamp, than the earliest one did.
    """

    def __init__(self) -> None:
        self._least_s: float | None = None
        self._since_s: float | None = None
        self.dropped = 0

    def drops(self, now_s: float, media_s: float, *, is_key: bool) -> bool:
        """Whether to throw a packet away; what follows it can be decoded from the next key."""
        offset_s = now_s - media_s
        if self._least_s is None or offset_s < self._least_s or offset_s > self._least_s + JUMP_S:
            self._least_s = offset_s
        delay_s = offset_s - self._least_s
        if self._since_s is None and delay_s > BEHIND_S:
            self._since_s = now_s
        if self._since_s is None:
            return False
        is_over = now_s - self._since_s > MOST_CATCHING_UP_S
        if is_key and (delay_s < CAUGHT_UP_S or is_over):
            self._since_s = None
            self._least_s = offset_s if is_over else self._least_s
            return False
        self.dropped += 1
        return True
