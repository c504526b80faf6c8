"""Writes down who does what, before it is done."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fedfleet.errors import FedFleetError
from fedfleet.rpc.gate import caller
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.audit import Audit, Deed
from fedfleet_coordinator.executors import Executors

T = TypeVar("T")

LOCAL = "local"
# Of an object's name, which a caller may have made up.
MAX_OBJECT = 200


class Trail:
    """The audit log as the coordinator's services write it."""

    def __init__(self, audit: Audit, executors: Executors, supervisor: Supervisor) -> None:
        self._audit = audit
        self._executors = executors
        self._supervisor = supervisor

    async def act(
        self,
        action: str,
        object: str,
        work: Callable[[], Awaitable[T]],
        *,
        actor: str = "",
        **fields: Any,  # what JSON can hold
    ) -> T:
        """Record a deed, then do it; one that is refused is recorded once more, with the code.

        What was recorded is done, also when the caller goes away meanwhile. Where it cannot be
        recorded it is not done.

        Args:
            actor: whose deed it is; empty is the caller's.
        """
        deed = Deed(
            at_s=time.time(),
            actor=actor or _actor(),
            action=action,
            object=object[:MAX_OBJECT],
            fields=fields,
        )
        return await self._supervisor.finish(action, self._do(deed, work))

    async def refuse(
        self,
        action: str,
        object: str,
        error: FedFleetError,
        **fields: Any,  # what JSON can hold
    ) -> None:
        """Record a deed that was refused before it began."""
        await self._executors.io(
            lambda: self._audit.append(
                Deed(
                    at_s=time.time(),
                    actor=_actor(),
                    action=action,
                    object=object[:MAX_OBJECT],
                    fields={**fields, "refused": error.code},
                )
            )
        )

    async def _do(self, deed: Deed, work: Callable[[], Awaitable[T]]) -> T:
        await self._executors.io(lambda: self._audit.append(deed))
        try:
            return await work()
        except FedFleetError as error:
            refused = Deed(
                at_s=time.time(),
                actor=deed.actor,
                action=deed.action,
                object=deed.object,
                fields={**deed.fields, "refused": error.code},
            )
            await self._executors.io(lambda: self._audit.append(refused))
            raise


def _actor() -> str:
    identity = caller()
    return identity.text if identity else LOCAL
