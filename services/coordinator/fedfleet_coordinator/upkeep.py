"""What the coordinator does about certificates from time to time."""

from __future__ import annotations

import asyncio
import logging
import time

from fedfleet.errors import AlreadyExists, NotFound, StoreFull, StoreUnavailable
from fedfleet.identity.authority import Authority
from fedfleet.rpc.gate import Gate
from fedfleet.store.access import Access
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.issuing import record_of

logger = logging.getLogger(__name__)

EVERY_S = 3600.0


class Upkeep:
    """Forgets what has ended, and keeps the local operator's credentials fresh.

    Args:
        grace_s: for which certificates that have ended are remembered, as they can be renewed.
    """

    def __init__(
        self, authority: Authority, access: Access, executors: Executors, grace_s: float
    ) -> None:
        self._authority = authority
        self._access = access
        self._executors = executors
        self._grace_s = grace_s

    async def begin(self, gate: Gate) -> None:
        """Learn which certificates were revoked, then do what is due; before anybody is served."""
        now_s = time.time()
        known = await self._executors.io(
            lambda: self._access.certificates(after_s=now_s - self._grace_s)
        )
        gate.revoke([record.serial for record in known if record.revoked])
        await self._executors.io(lambda: self._do(now_s))

    async def keep(self) -> None:
        """Do it for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self._executors.io(lambda: self._do(time.time()))
            except (StoreFull, StoreUnavailable) as error:
                logger.warning("upkeep_failed", extra={"code": error.code, "reason": error.message})

    def _is_revoked(self, serial: str) -> bool:
        try:
            return self._access.certificate(serial).revoked
        except NotFound:
            return False

    def _do(self, now_s: float) -> None:
        self._access.forget_certificates(now_s - self._grace_s)
        for token in self._access.tokens():
            if token.expires_at_s <= now_s:
                try:
                    self._access.delete_token(token.token_id)
                except NotFound:
                    continue
        operator = self._authority.local_operator(now_s, is_revoked=self._is_revoked)
        try:
            self._access.add_certificate(record_of(operator.identity, now_s))
        except AlreadyExists:
            return
        logger.info(
            "operator_credentials_made",
            extra={"hint": "FEDFLEET_CREDENTIALS=<folder of the authority>/operator to use them"},
        )
