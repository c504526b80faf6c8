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
# Seconds that a camera's clock may lose in one, for example by announcing 25 frames for 24.8.
SLOWEST_CLOCK = 0.01
# A file that is decoded this much too late is not hurried through.
TOO_LATE_S = 1.0
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

    Not for ever: there are encoders that send no keys, and refresh the picture by parts. Both
    together take no longer than is said, so that there is a picture before the camera is given up.
    """

    def __init__(self) -> None:
        self._until_s: float | None = None
        self._had_key = False
        self._had_whole = False

    def skips_packet(self, now_s: float, *, is_key: bool) -> bool:
        self._had_key = self._had_key or is_key or self._is_over(now_s)
        return not self._had_key

    def skips_frame(self, now_s: float, *, is_whole: bool) -> bool:
        self._had_whole = self._had_whole or is_whole or self._is_over(now_s)
        return not self._had_whole

    def _is_over(self, now_s: float) -> bool:
        if self._until_s is None:
            self._until_s = now_s + MOST_OPENING_S
        return now_s >= self._until_s


class Playback:
    """Says when each frame of a file is due, as a camera would have given it.

    Args:
        interval_s: between frames that have no time; and no file takes less in all.
        most_gap_s: a frame that is due later than this after the one before is due at once.
    """

    def __init__(self, interval_s: float, most_gap_s: float) -> None:
        self._interval_s = interval_s
        self._most_gap_s = most_gap_s
        self._begun_s: float | None = None
        self._zero_s: float | None = None  # when time 0 of the file was
        self._last_s: float | None = None  # time of the frame before, in the file
        self._due_s = 0.0
        self._step_s = 0.0

    def wait_s(self, now_s: float, media_s: float | None) -> float:
        """How long to wait with the next frame."""
        self._begun_s = now_s if self._begun_s is None else self._begun_s
        if media_s is None:
            self._due_s = now_s + self._interval_s
            return self._interval_s
        gap_s = 0.0 if self._last_s is None else media_s - self._last_s
        self._last_s = media_s
        is_jump = not -TOO_LATE_S <= gap_s <= self._most_gap_s
        if self._zero_s is None or is_jump or now_s - self._zero_s - media_s > TOO_LATE_S:
            self._zero_s = now_s - media_s
        if not is_jump:
            self._step_s = max(0.0, gap_s)
        self._due_s = self._zero_s + media_s
        return max(0.0, self._due_s - now_s)

    def rest_s(self, now_s: float) -> float:
        """How long the last frame stays before the file begins again."""
        begun_s = now_s if self._begun_s is None else self._begun_s
        return max(0.0, self._due_s + self._step_s - now_s, begun_s + self._interval_s - now_s)


class Lag:
    """Finds out that packets wait to be decoded, and says which to throw away until none does.

    A packet's delay is how much later it came, by its time stamp, than the earliest one did. The
    earliest counts for less and less: a camera's clock may go slow, and all its packets would
    seem later and later.
    """

    def __init__(self) -> None:
        self._least_s: float | None = None
        self._heard_s = 0.0  # when the packet before came
        self._since_s: float | None = None
        self.dropped = 0

    def drops(self, now_s: float, media_s: float, *, is_key: bool) -> bool:
        """Whether to throw a packet away; what follows it can be decoded from the next key."""
        offset_s = now_s - media_s
        if self._least_s is not None:
            self._least_s += SLOWEST_CLOCK * (now_s - self._heard_s)
        self._heard_s = now_s
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
