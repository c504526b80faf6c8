"""One owner: a lease in the store, with a fencing token that every write of the owner carries.

No clock is shared. An owner that lives changes the lease's beat; who wants the lease watches the
beat by its own clock, and may claim it when it stood still for as long as the owner promised to
change it. Each claim makes the token grow. A store that was claimed through refuses to write once
the token is another one: so an owner that was paused and wakes up cannot write (Gray & Cheriton,
Leases, 1989; the token as in Burrows, Chubby, 2006, "sequencer").
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from fedfleet.errors import Conflict, LeaseLost, StateInUse, StoreFull, StoreUnavailable

logger = logging.getLogger(__name__)

LASTS_S = 5.0
# How often a beat falls into the time that a lease lasts.
BEATS = 4
# How often a challenger looks at the lease while it lasts; and at least that often.
LOOKS = 10
LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class LeaseRecord:
    """Who owns the store.

    Args:
        token: grows with every claim; 0 before the first.
        holder: names the owner to people; empty when the lease was given back.
        beat: grows while the owner lives.
        lasts_s: a beat that stood still for so long is an owner's that may be replaced.
    """

    token: int = 0
    holder: str = ""
    beat: int = 0
    lasts_s: float = 0.0


class Leases(Protocol):
    """The lease as a store keeps it; each call is one transaction."""

    def read(self) -> LeaseRecord: ...

    def is_dead(self, seen: LeaseRecord) -> bool:
        """Whether the owner is known to be gone, so that nobody has to wait."""

    def claim(self, seen: LeaseRecord, holder: str, lasts_s: float) -> LeaseRecord:
        """Take the lease if it is still as it was seen; the store's writes are fenced from then on.

        Raises:
            Conflict: it is not.
        """

    def renew(self) -> None:
        """Beat. Raises LeaseLost: somebody else has claimed it."""

    def release(self) -> None:
        """Give the lease back, and with it the fence; where it was lost, the fence stays."""


class Lease:
    """An owner's hold on its store.

    Attributes:
        lost: set when somebody else has claimed the store.
    """

    def __init__(self, record: LeaseRecord) -> None:
        self.record = record
        self.lost = threading.Event()


@contextmanager
def owned(
    leases: Leases,
    what: str,
    holder: str,
    lasts_s: float,
    wait_s: float | None,
    given_up: threading.Event | None = None,
) -> Iterator[Lease]:
    """Own a store while the body runs; renewed by a thread, given back at the end.

    Args:
        what: names the store in the error.
        holder: names this owner to people; empty is the process and its machine.
        wait_s: how long to wait for an owner that gives a sign of life; None waits for ever.
        given_up: set by whoever does not want to wait any more.

    Raises:
        StateInUse: another process owns it.
        StoreFull, StoreUnavailable: it cannot be claimed, and there is no time left to wait.
    """
    if not lasts_s > 0:
        raise ValueError(f"a lease that lasts {lasts_s} s: must be more than 0")
    holder = holder or f"process {os.getpid()} on {socket.gethostname()}"
    lease = Lease(_take(leases, what, holder, lasts_s, wait_s, given_up or threading.Event()))
    ended = threading.Event()
    thread = threading.Thread(
        target=_keep, args=(leases, lease, lasts_s / BEATS, ended), name="lease", daemon=True
    )
    with ExitStack() as stack:
        stack.callback(_give_back, leases)
        thread.start()
        stack.callback(thread.join)
        stack.callback(ended.set)
        yield lease


class Watch:
    """What a challenger has seen of a lease so far.

    Time in which it did not look proves nothing: what kept it from looking (a machine that stood
    still, a store that was away or full) may have kept the owner from beating.

    Args:
        clock: seconds that only grow.

    Attributes:
        seen: the lease at the last look.
        stood_s: for how long it was seen to stay the same.
    """

    def __init__(self, leases: Leases, clock: Callable[[], float] = time.monotonic) -> None:
        self._leases = leases
        self._clock = clock
        self._looked_s: float | None = None
        self._changes = -1  # the first look is none
        self.seen = LeaseRecord(token=-1)
        self.stood_s = 0.0

    @property
    def pause_s(self) -> float:
        """How long to wait for the next look."""
        return min(LOOK_S, max(0.02, self.seen.lasts_s / LOOKS))

    @property
    def is_free(self) -> bool:
        """Whether the lease may be claimed if it is still as it was seen."""
        seen = self.seen
        return not seen.holder or self.stood_s > seen.lasts_s or self._leases.is_dead(seen)

    @property
    def owner_lives(self) -> bool:
        """Whether the owner gave a sign of life, and not too long ago."""
        seen = self.seen
        return bool(seen.holder) and self._changes > 0 and self.stood_s <= seen.lasts_s / 2

    def look(self) -> None:
        """See how the lease is now; raises what the store raises."""
        before_s, pause_s, now = self._looked_s, self.pause_s, self._leases.read()
        self._looked_s = self._clock()
        if before_s is None or now != self.seen:
            self.stood_s = 0.0
        else:
            self.stood_s += min(self._looked_s - before_s, 2 * pause_s)
        self._changes += now != self.seen
        self.seen = now

    def lose_sight(self) -> None:
        """Begin again: neither this challenger nor the owner could reach the store."""
        if self._looked_s is not None:
            logger.warning("lease_not_seen", extra={"token": self.seen.token})
        self._looked_s = None


def _take(
    leases: Leases,
    what: str,
    holder: str,
    lasts_s: float,
    wait_s: float | None,
    given_up: threading.Event,
) -> LeaseRecord:
    began_s, watch, told = time.monotonic(), Watch(leases), False
    while True:
        has_waited = wait_s is not None and time.monotonic() - began_s >= wait_s
        try:
            watch.look()
            if watch.is_free:
                return _claim(leases, watch.seen, holder, lasts_s)
        except Conflict:
            pass  # somebody was faster, or the owner lives after all
        except (StoreFull, StoreUnavailable):
            if has_waited:
                raise
            watch.lose_sight()
        if has_waited and watch.owner_lives:
            raise StateInUse(
                f"{what} is in use by another process ({watch.seen.holder}): stop that one, or "
                "name another store; FEDFLEET_STANDBY=1 waits to take over"
            )
        if not told and watch.seen.holder:
            told = True
            fields = {"holder": watch.seen.holder, "token": watch.seen.token}
            logger.info("lease_awaited", extra=fields)
        if given_up.wait(watch.pause_s):
            raise StateInUse(f"{what} was not taken: waiting for its owner was given up")


def _claim(leases: Leases, seen: LeaseRecord, holder: str, lasts_s: float) -> LeaseRecord:
    taken = leases.claim(seen, holder, lasts_s)
    fields = {"holder": holder, "token": taken.token, "former": seen.holder}
    logger.info("lease_taken", extra=fields)
    return taken


def _keep(leases: Leases, lease: Lease, every_s: float, ended: threading.Event) -> None:
    is_failing = False
    try:
        while not ended.wait(every_s):
            try:
                leases.renew()
                is_failing = False
            except (StoreFull, StoreUnavailable) as error:
                # Nobody else can claim what cannot be reached; the token decides when it is back.
                if not is_failing:
                    logger.warning("lease_not_renewed", extra={"code": error.code})
                is_failing = True
    except LeaseLost:
        logger.error("lease_lost", extra={"token": lease.record.token})
    finally:
        if not ended.is_set():  # whatever ended it: nobody renews the lease any more
            lease.lost.set()


def _give_back(leases: Leases) -> None:
    try:
        leases.release()
    except (StoreFull, StoreUnavailable) as error:
        logger.warning("lease_not_released", extra={"code": error.code})
