"""A version's first time: what goes wrong in it is counted, and too much of it is its end."""

from __future__ import annotations

from collections.abc import Callable

from fedfleet.store.protocols import VersionRecord
from fedfleet_inference_api.following import is_same
from fedfleet_inference_api.servable import Servable


class Trial:
    """Of one version at a time. Not thread-safe: the follower calls it under its lock.

    Args:
        failures: so many failed predictions in the first ``window_s`` seconds are too many.
        clock: seconds that only grow.
    """

    def __init__(self, failures: int, window_s: float, clock: Callable[[], float]) -> None:
        self._most = failures
        self._window_s = window_s
        self._clock = clock
        self._record: VersionRecord | None = None
        self._began_s = 0.0
        self._failed = 0

    def begin(self, servable: Servable | None) -> None:
        """Count anew, unless this version is on trial already."""
        record = servable.record if servable is not None else None
        if record is None or self._record is None or not is_same(record, self._record):
            self._record = record
            self._begin()

    def restart(self, record: VersionRecord) -> None:
        """Count anew where this version is on trial."""
        if self._record is not None and is_same(record, self._record):
            self._begin()

    def _begin(self) -> None:
        self._began_s = self._clock()
        self._failed = 0

    def has_failed(self, servable: Servable, *, is_unfit: bool) -> bool:
        """Take note of a failed prediction; whether the version should be served no longer.

        Args:
            is_unfit: the answer itself was none; once is enough, whenever it is.
        """
        if self._record is None or not is_same(servable.record, self._record):
            return False
        if is_unfit:
            return True
        if self._clock() - self._began_s > self._window_s:
            return False
        self._failed += 1
        return self._failed >= self._most
