"""Keeps a worker's certificate good: renewed in time, and mended where it was found not to be.

No decision hangs on this device's clock alone, which may be a day off. A certificate is renewed
when the clock says so, or when two thirds of its life have passed since it came, or when the
coordinator does not take it; and whether it has ended is the coordinator's to say.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fedfleet.errors import FedFleetError, TimedOut, Unauthenticated, Unavailable
from fedfleet.identity.credentials import Credentials, load_external, save_credentials
from fedfleet.rpc.enrolment import renew
from fedfleet.rpc.patience import within
from fedfleet.rpc.retry import backoff_s
from fedfleet_worker.clock import hint_of
from fedfleet_worker.lines import Lines

logger = logging.getLogger(__name__)

# Clocks are set, and devices sleep: nothing is waited for in one piece.
LOOK_S = 60.0
# How often files of another authority are read again.
FILES_S = 10.0


class Keeper(Protocol):
    """Whoever sees to the credentials that ``lines`` are opened with."""

    async def watch(self) -> None:
        """Have them renewed in time, for ever."""

    def doubt(self) -> None:
        """The coordinator does not take them, or not without trouble: look at them soon."""


def renewal_backoff_s() -> Iterator[float]:
    """Waits between the attempts to renew."""
    return backoff_s(5.0, 600.0)


class Renewal:
    """Keeps a certificate that the coordinator has issued.

    Args:
        folder: where it is kept.
        enrol_addresses: where one is renewed that has ended.
        backoff: makes the waits between attempts.
        wall: this device's clock, in seconds since the epoch.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        lines: Lines,
        held: Credentials,
        folder: Path,
        enrol_addresses: Sequence[str],
        *,
        backoff: Callable[[], Iterator[float]] = renewal_backoff_s,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = lines
        self._folder = folder
        self._enrol_addresses = tuple(enrol_addresses)
        self._backoff = backoff
        self._wall, self._clock = wall, clock
        self._doubted = asyncio.Event()
        self._take(held)

    def _take(self, held: Credentials) -> None:
        """Say when the next one is due, by both clocks."""
        self._held = held
        jitter = random.uniform(-1, 1)  # noqa: S311 - spreading load, not keeping a secret
        self._due_at_s = held.renew_at_s(jitter)
        self._due_clock_s = self._clock() + self._due_at_s - held.issued_at_s

    @property
    def due_in_s(self) -> float:
        """Seconds until the certificate is to be renewed; 0 or less when that is now."""
        return min(self._due_at_s - self._wall(), self._due_clock_s - self._clock())

    def doubt(self) -> None:
        """Try to renew soon, whatever the clocks say."""
        self._doubted.set()

    async def watch(self) -> None:
        """Renew when it is due or doubted, for ever; what fails is tried again."""
        waits = self._backoff()
        while True:
            await self._until_wanted()
            try:
                await self._renew()
                waits = self._backoff()
            except FedFleetError as error:
                hint = await hint_of(self._lines.address, self._held)
                logger.warning(
                    "certificate_not_renewed",
                    extra={
                        "code": error.code,
                        "reason": error.message,
                        "detail": error.detail,
                        "hint": hint,
                    },
                )
                # Doubts that came meanwhile are answered by what was just found out.
                self._doubted.clear()
                await asyncio.sleep(next(waits))

    async def _until_wanted(self) -> None:
        while not self._doubted.is_set() and (left_s := self.due_in_s) > 0:
            try:
                await within(min(left_s, LOOK_S), self._doubted.wait())
            except asyncio.TimeoutError:
                continue

    async def _renew(self) -> None:
        """Get other credentials, keep them, and have them used."""
        is_doubted = self._doubted.is_set()
        fresh = await self._fresh(is_doubted)
        await asyncio.to_thread(save_credentials, self._folder, fresh)
        self._doubted.clear()
        self._take(fresh)
        self._lines.use(fresh)
        logger.info("certificate_renewed", extra={"expires_at_s": fresh.expires_at_s})

    async def _fresh(self, is_doubted: bool) -> Credentials:
        try:
            return await self._ask(has_ended=None)
        except (Unavailable, TimedOut, Unauthenticated):
            # A coordinator hangs up on a certificate that has ended by its clock.
            if not is_doubted or self._held.expires_at_s <= self._wall():
                raise
        return await self._ask(has_ended=True)

    async def _ask(self, *, has_ended: bool | None) -> Credentials:
        *others, last = self._enrol_addresses
        for enrol_address in others:
            try:
                return await renew(
                    self._lines.address, enrol_address, self._held, has_ended=has_ended
                )
            except (Unavailable, TimedOut):
                continue
        return await renew(self._lines.address, last, self._held, has_ended=has_ended)


class Files:
    """Follows files in which another authority's tool keeps the credentials.

    Args:
        paths: of the certificate, the key, the root.
        checked: returns credentials that are this worker's, and raises why others are not.
    """

    def __init__(
        self,
        lines: Lines,
        held: Credentials,
        paths: tuple[Path, Path, Path],
        checked: Callable[[Credentials], Credentials],
    ) -> None:
        self._lines = lines
        self._held = held
        self._paths = paths
        self._checked = checked
        self._doubted = asyncio.Event()

    def doubt(self) -> None:
        """Look at the files soon."""
        self._doubted.set()

    async def watch(self) -> None:
        """Have what is in the files used, for ever; files that do not fit are left alone."""
        while True:
            with suppress(asyncio.TimeoutError):
                await within(FILES_S, self._doubted.wait())
            is_doubted = self._doubted.is_set()
            self._doubted.clear()
            try:
                found = self._checked(await asyncio.to_thread(load_external, *self._paths))
            except FedFleetError as error:
                await self._tell(error.code, error.message)
                continue
            if found != self._held:
                self._held = found
                self._lines.use(found)
                logger.info("certificate_renewed", extra={"expires_at_s": found.expires_at_s})
            elif is_doubted:
                await self._tell("", "its files have not changed")

    async def _tell(self, code: str, reason: str) -> None:
        hint = await hint_of(self._lines.address, self._held)
        extra = {"code": code, "reason": reason, "hint": hint}
        logger.warning("certificate_not_renewed", extra=extra)
