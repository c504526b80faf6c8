"""Whose certificates are worthless, and which calls run; those that may not go on are ended."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextvars import ContextVar

from fedfleet.errors import FedFleetError, LimitExceeded, Unauthenticated
from fedfleet.identity.names import Identity

# How often a running call's certificate is looked at again, should the clock have been set.
LOOK_S = 30.0
# A worker has one stream and a few transfers; more are left over from connections that died.
MAX_CALLS = 64


class RunningCall:
    """A call that was let in.

    Attributes:
        identity: None for a caller without a certificate.
        error: why it was ended from here.
    """

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.error: FedFleetError | None = None
        self._task = asyncio.current_task()

    def end(self, error: FedFleetError) -> None:
        """End the call at once; its caller gets the error."""
        if self.error is None and self._task is not None:
            self.error = error
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until nothing of the call runs any more, however it ended."""
        if self._task is not None:
            await asyncio.wait([self._task])


_CALL: ContextVar[RunningCall | None] = ContextVar("running_call", default=None)


def set_current_call(call: RunningCall) -> None:
    """Say which call runs here, and in the tasks that are started from here on."""
    _CALL.set(call)


def current_call() -> RunningCall | None:
    """The call that runs here; None outside of one, also in an executor's thread."""
    return _CALL.get()


def caller() -> Identity | None:
    """Who makes the call that runs here; None is local: a port without TLS, or no call."""
    call = _CALL.get()
    return call.identity if call else None


class Gate:
    """Which certificates are worthless, and which calls run; of one event loop.

    Args:
        clock: seconds since the epoch.
        max_calls: of one identity at once.
    """

    def __init__(self, clock: Callable[[], float] = time.time, max_calls: int = MAX_CALLS) -> None:
        self._clock = clock
        self._max_calls = max_calls
        self._revoked: set[str] = set()
        # With what looks at their certificates again.
        self._calls: dict[RunningCall, asyncio.TimerHandle | None] = {}
        self._counts: Counter[str] = Counter()

    def revoke(self, serials: Collection[str]) -> None:
        """Let nobody in with these any more, and end at once what runs with them."""
        self._revoked.update(serials)
        for call in list(self._calls):
            if call.identity is not None and call.identity.serial in serials:
                call.end(_revoked())

    def is_revoked(self, serial: str) -> bool:
        return serial in self._revoked

    def check(self, identity: Identity) -> None:
        """Raises Unauthenticated: the certificate has ended or was revoked."""
        if self.is_revoked(identity.serial):
            raise _revoked()
        if identity.expires_at_s <= self._clock():
            raise _ended()

    def enter(self, identity: Identity | None) -> RunningCall:
        """Let a call in; raises as ``check``, or LimitExceeded."""
        call = RunningCall(identity)
        if identity is None:
            self._calls[call] = None
            return call
        self.check(identity)
        if self._counts[identity.text] >= self._max_calls:
            raise LimitExceeded(f"{identity.text} has {self._max_calls} calls running already")
        self._counts[identity.text] += 1
        self._watch(call, identity)
        return call

    def leave(self, call: RunningCall) -> None:
        """A call has ended."""
        timer = self._calls.pop(call)
        if timer is None or call.identity is None:
            return
        timer.cancel()
        name = call.identity.text
        self._counts[name] -= 1
        if not self._counts[name]:
            del self._counts[name]

    def _watch(self, call: RunningCall, identity: Identity) -> None:
        left_s = identity.expires_at_s - self._clock()
        if left_s <= 0:
            call.end(_ended())
        wait_s = min(left_s, LOOK_S) if left_s > 0 else LOOK_S
        again = asyncio.get_running_loop().call_later(wait_s, self._watch, call, identity)
        self._calls[call] = again


def _revoked() -> Unauthenticated:
    return Unauthenticated("the certificate was revoked")


def _ended() -> Unauthenticated:
    return Unauthenticated("the certificate has ended: renew it, or enrol again")
