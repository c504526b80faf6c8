"""When a version that could not be loaded is tried again, and which ones are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedfleet_inference_api.following import Target

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


@dataclass(frozen=True)
class _Attempt:
    """The last one, and when the next one is due."""

    version: tuple[str, int]
    revision: int
    retry_at_s: float
    wait_s: float


class Attempts:
    """The attempts to serve what one alias points at.

    After a failure the version is tried again after 1 s, then 2 s, up to a minute; what the alias
    moves on to, and what it is set to anew, at once. A banned version is not tried again until
    then.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: _Attempt | None = None
        self._banned: tuple[tuple[str, int], int] | None = None

    def is_due(self, target: Target) -> bool:
        """Whether to try; plans the next attempt first, in case that this one fails."""
        version, wait_s = _name(target), FIRST_RETRY_S
        last = self._last
        if last is not None and (last.version, last.revision) == (version, target.revision):
            if self._clock() < last.retry_at_s:
                return False
            wait_s = min(2 * last.wait_s, LONGEST_RETRY_S)
        self._last = _Attempt(version, target.revision, self._clock() + wait_s, wait_s)
        return True

    def succeeded(self) -> None:
        self._last = None

    def ban(self, target: Target) -> None:
        """Do not try this version again while its alias stays."""
        self._banned = (_name(target), target.revision)

    def is_banned(self, target: Target) -> bool:
        return self._banned == (_name(target), target.revision)


def _name(target: Target) -> tuple[str, int]:
    return target.record.model, target.record.number
