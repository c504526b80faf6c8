"""What the coordinator does about certificates from time to time."""

from __future__ import annotations

import asyncio
import logging

from fedfleet.errors import NotFound, StoreFull, StoreUnavailable
from fedfleet.identity.authority import Authority
from fedfleet.rpc.gate import Gate
from fedfleet.store.access import Access
from fedfleet_coordinator.audit_trail import Trail
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.issuing import record_of
from fedfleet_coordinator.steady_clock import SteadyClock

logger = logging.getLogger(__name__)

EVERY_S = 3600.0
# Nothing is forgotten by a clock that was set later than this: what is forgotten is not renewed.
STEADY_S = 86400.0
ACTOR = "coordinator"


class Upkeep:
    """Forgets what has ended, and keeps the local operator's credentials fresh.

    Args:
        grace_s: for which certificates that have ended are remembered, as they can be renewed.
    """

    def __init__(
        self,
        authority: Authority,
        access: Access,
        executors: Executors,
        trail: Trail,
        gate: Gate,
        grace_s: float,
        clock: SteadyClock | None = None,
    ) -> None:
        self._authority = authority
        self._access = access
        self._executors = executors
        self._trail = trail
        self._gate = gate
        self._grace_s = grace_s
        self._clock = clock or SteadyClock()

    async def begin(self) -> None:
        """Learn which certificates were revoked, then do what is due; before anybody is served.

        Raises:
            StoreFull, StoreUnavailable: not all was done; it can be begun again.
        """
        now_s, _ = self._clock.look()
        await self._learn()
        await self._keep_operator(now_s)

    async def keep(self) -> None:
        """Do it for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except (StoreFull, StoreUnavailable) as error:
                logger.warning("upkeep_failed", extra={"code": error.code, "reason": error.message})

    async def look(self) -> None:
        """Do what is due; raises as ``begin``."""
        now_s, steady_s = self._clock.look()
        await self._learn()
        await self._keep_operator(now_s)
        if steady_s >= STEADY_S:
            await self._executors.io(lambda: self._forget(now_s))

    async def _learn(self) -> None:
        """Tell the gate what is revoked, also by a write whose answer was lost; whatever the time
        is, as a clock can be wrong.
        """
        known = await self._executors.io(self._access.certificates)
        self._gate.revoke({record.serial for record in known if record.revoked})

    async def _keep_operator(self, now_s: float) -> None:
        operator = await self._executors.io(
            lambda: self._authority.local_operator(now_s, is_revoked=self._is_revoked)
        )
        identity = operator.identity
        if await self._executors.io(lambda: self._is_known(identity.serial)):
            return
        record = record_of(identity, now_s)
        await self._trail.act(
            "issue",
            identity.text,
            lambda: self._executors.io(lambda: self._access.add_certificate(record)),
            actor=ACTOR,
            serial=record.serial,
        )
        logger.info(
            "operator_credentials_made",
            extra={"hint": "FEDFLEET_CREDENTIALS=<folder of the authority>/operator to use them"},
        )

    def _is_known(self, serial: str) -> bool:
        try:
            self._access.certificate(serial)
        except NotFound:
            return False
        return True

    def _is_revoked(self, serial: str) -> bool:
        try:
            return self._access.certificate(serial).revoked
        except NotFound:
            return False

    def _forget(self, now_s: float) -> None:
        self._access.forget_certificates(now_s - self._grace_s)
        for token in self._access.tokens():
            if token.expires_at_s <= now_s:
                try:
                    self._access.delete_token(token.token_id)
                except NotFound:
                    continue
