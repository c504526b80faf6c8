"""The bound on what one worker transfers at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from fedfleet.errors import LimitExceeded, NotAllowed
from fedfleet.rpc.gate import RunningCall, caller, current_call

MAX_TRANSFERS = 4


def check_claim(worker_id: str) -> None:
    """Raises NotAllowed: the caller's certificate is another worker's; local callers have none."""
    identity = caller()
    if identity is not None and identity.name != worker_id:
        raise NotAllowed(f"{identity.text} may not speak for worker {worker_id[:80]!r}")


class Transfers:
    """Running uploads and downloads by the worker whose certificate is shown.

    One too many ends the oldest: that is the one whose connection is probably dead, and a worker
    that opens many takes room from nobody but itself. Callers without TLS are not bounded.
    """

    def __init__(self) -> None:
        self._running: defaultdict[str, list[RunningCall]] = defaultdict(list)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count the call that runs here."""
        identity, call = caller(), current_call()
        if identity is None or call is None:
            yield
            return
        running = self._running[identity.name]
        running.append(call)
        if len(running) > MAX_TRANSFERS:
            running[0].end(
                LimitExceeded(
                    f"a newer transfer took the place: {MAX_TRANSFERS} at once per worker"
                )
            )
            # Its own end may take a moment; it does not count any more.
            del running[0]
        try:
            yield
        finally:
            if call in running:
                running.remove(call)
            if not running and self._running.get(identity.name) is running:
                del self._running[identity.name]
