"""When a version that could not be loaded is tried again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedfleet_inference_api.following import Target

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


_Tried = tuple[str, int, int]  # a version, and its alias's revision


@dataclass(frozen=True)
class _Attempt:
    """The last one, and when the next one is due."""

    tried: _Tried
    retry_at_s: float
    wait_s: float


class Attempts:
    """The attempts to serve what one alias points at.

    After a failure the version is tried again after 1 s, then 2 s, up to a minute; what the alias
    moves on to, and what it is set to anew, at once.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: _Attempt | None = None
        self._failure: tuple[_Tried, str] | None = None

    def is_due(self, target: Target) -> bool:
        """Whether to try; plans the next attempt first, in case that this one fails."""
        tried, wait_s = _tried(target), FIRST_RETRY_S
        last = self._last
        if last is not None and last.tried == tried:
            if self._clock() < last.retry_at_s:
                return False
            wait_s = min(2 * last.wait_s, LONGEST_RETRY_S)
        self._last = _Attempt(tried, self._clock() + wait_s, wait_s)
        return True

    def succeeded(self) -> None:
        self._last = self._failure = None

    def failed(self, target: Target, reason: str) -> None:
        """Remember why the last attempt failed."""
        self._failure = (_tried(target), reason)

    def reason(self, target: Target) -> str:
        """Why the last attempt at this failed; empty where there was none."""
        failure = self._failure
        return failure[1] if failure is not None and failure[0] == _tried(target) else ""


def _tried(target: Target) -> _Tried:
    return target.record.model, target.record.number, target.revision
