"""Reports progress at a bounded rate and notices a request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from fedfleet.errors import TrainingFailed

INTERVAL_S = 0.1


class Watch:
    """Looks after one local training.

    Args:
        on_progress: called with the share of steps done, in [0, 1], at most once per INTERVAL_S
            and once at the end.
        cancelled: asked after every step; True throws the work away. It may take its time: work
            that is to rest is held in there.
        until: asked after every step but the last; True ends the work with what is done.
        clock: seconds, monotonic.

    Attributes:
        is_cut: the work is to end here, though steps are left.
    """

    def __init__(
        self,
        on_progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        until: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._until = until
        self._clock = clock
        self._last_s = clock()
        self.is_cut = False

    def after_step(self, done: int, total: int) -> bool:
        """Note a step; return whether it is time for checks that cost something.

        Raises:
            TrainingFailed: the work was cancelled.
        """
        if self._cancelled is not None and self._cancelled():
            raise TrainingFailed(f"local training was cancelled after step {done} of {total}")
        if self._until is not None and done < total:
            self.is_cut = self._until()
        now_s = self._clock()
        is_due = now_s - self._last_s >= INTERVAL_S
        if is_due:
            self._last_s = now_s
        if self._on_progress is not None and (is_due or done == total):
            self._on_progress(done / total)
        return is_due
