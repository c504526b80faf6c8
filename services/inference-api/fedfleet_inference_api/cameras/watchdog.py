"""When a camera's process has to be ended and when another is started. No I/O.

Times are seconds of one clock that only grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fedfleet_inference_api.cameras.seen import CameraCode, CameraState

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
HEALTHY_S = 60.0
# Connecting, and the first key frame of a stream that has few.
LEAST_START_S = 15.0

# A server that hands streams on says that a path is not there until its camera has come: it is
# asked a few times as usual.
MISSING = 3


class Watchdog:
    """The state of one camera.

    Attributes:
        code: why it gives no frames, while it gives none.
        due_s: when ``is_overdue`` or ``is_retry_due`` has to be asked next.

    Args:
        silence_s: longest time without a new frame.
        chance: a number from 0 to 1, another at each call.
    """

    def __init__(
        self,
        *,
        silence_s: float,
        slow_retry_s: float,
        chance: Callable[[], float],
    ) -> None:
        self.state = CameraState.STOPPED
        self.code = CameraCode.NONE
        self.due_s = math.inf
        self._stall_s = silence_s
        self._start_s = max(self._stall_s, LEAST_START_S)
        self._slow_retry_s = slow_retry_s
        self._chance = chance
        self._failures = 0
        self._missing = 0  # of them, those at the end that said so
        self._streaming_since_s = math.inf

    def connect(self, now_s: float) -> None:
        """A process was started."""
        self.state = CameraState.CONNECTING
        self.due_s = now_s + self._start_s

    def stream(self, now_s: float) -> None:
        """A frame came; one that came after all, from a process that is being ended, is none."""
        if self.state is CameraState.CONNECTING:
            self.state, self.code = CameraState.STREAMING, CameraCode.NONE
            self._streaming_since_s = now_s
        if self.state is CameraState.STREAMING:
            self.due_s = now_s + self._stall_s

    def is_overdue(self, now_s: float) -> bool:
        """Whether the process has to be ended; says so once."""
        is_first = self.state is CameraState.CONNECTING
        if not (is_first or self.state is CameraState.STREAMING) or now_s < self.due_s:
            return False
        self.code = CameraCode.TIMEOUT if is_first else CameraCode.STALLED
        self.state, self.due_s = CameraState.STALLED, math.inf
        return True

    def fail(self, code: CameraCode, now_s: float) -> None:
        """The process has ended; plans the next start.

        Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS
        Architecture Blog, 2015), from the beginning after a minute of frames.
        """
        if now_s - self._streaming_since_s >= HEALTHY_S:
            self._failures = self._missing = 0
        self._streaming_since_s = math.inf
        self.state, self.code = CameraState.BACKOFF, code
        self._missing = self._missing + 1 if code is CameraCode.NOT_FOUND else 0
        is_missing = self._missing > MISSING
        # A camera counts tries with a wrong password, and locks the account. What is not allowed
        # stays so, but for a name that gets another address.
        if code in (CameraCode.AUTH_FAILED, CameraCode.NOT_ALLOWED) or is_missing:
            wait_s = self._slow_retry_s * (1 + 0.1 * self._chance())
        else:
            most_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures, 10))
            wait_s = most_s * self._chance()
        self._failures += 1
        self.due_s = now_s + wait_s

    def is_retry_due(self, now_s: float) -> bool:
        return self.state is CameraState.BACKOFF and now_s >= self.due_s

    def stop(self, code: CameraCode = CameraCode.NONE) -> None:
        """The camera is not connected again."""
        self.state, self.code, self.due_s = CameraState.STOPPED, code, math.inf
