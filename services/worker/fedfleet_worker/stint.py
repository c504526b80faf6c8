"""One training as the device and the deadline let it: held, cut short, or ended for its memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from fedfleet_worker.memory import MemoryLimit
from fedfleet_worker.pausing import Pausing

# Of the time that there is, the most that is set aside for what is not foreseen.
MARGIN_RATIO = 0.1


def cut_at_s(ends_s: float, deadline_s: float, margin_s: float, after_s: float) -> float:
    """When training has to end so that its update arrives by the deadline.

    Args:
        ends_s: the deadline, by the clock that the result is of; infinite for none.
        deadline_s: from the receipt of the assignment to the deadline.
        margin_s: for what is not foreseen.
        after_s: that the update will take from the last step to its receipt, as far as is known.
    """
    return ends_s - min(margin_s, MARGIN_RATIO * deadline_s) - after_s


class Stint:
    """What the training loop asks after every step, in its own thread.

    Args:
        cut_s: when the work is to end with what is done.
        clock: seconds, that ``cut_s`` is of.
    """

    def __init__(
        self,
        pausing: Pausing,
        memory: MemoryLimit,
        is_cancelled: Callable[[], bool],
        cut_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pausing = pausing
        self._memory = memory
        self._is_cancelled = is_cancelled
        self._cut_s = cut_s
        self._clock = clock
        self._was_over = False
        self._last_step_s = clock()

    def cancelled(self) -> bool:
        """Whether nobody wants the work any more; holds it while the worker rests.

        Raises:
            OutOfMemory: the work takes more than the device allows.
        """
        self._memory.check()
        self._pausing.hold(self._need_not_rest)
        self._was_over = self.is_over()
        self._last_step_s = self._clock()
        return self._is_cancelled()

    def is_over(self) -> bool:
        """Whether it is time to upload what is done."""
        return self._clock() >= self._cut_s

    @property
    def since_last_step_s(self) -> float:
        """Seconds that went into making an update of what was trained."""
        return self._clock() - self._last_step_s

    def _need_not_rest(self) -> bool:
        # Work that cannot be cut short is asked again after its time, and then rests on.
        return self._is_cancelled() or (self.is_over() and not self._was_over)
