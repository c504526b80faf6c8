"""The connections to the coordinator: where it is, who this worker is to it, and when that changes.

There may be several addresses: of the coordinator and of those that stand by for it. And there are
two connections, so that heartbeats and assignments never wait behind the bytes of a transfer. Each
is opened anew when it is next asked for after the address or the credentials changed; what runs on
the old one is given up then, and transfers go on where they were.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.channel import open_channel
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

logger = logging.getLogger(__name__)


class Line:
    """One connection.

    Args:
        own_connection: share none with others of this process.
    """

    def __init__(self, *, own_connection: bool) -> None:
        self._own_connection = own_connection
        self._open: tuple[str, Credentials | None] | None = None
        self._channel: grpc.aio.Channel

    async def stub(
        self, address: str, credentials: Credentials | None
    ) -> FederationServiceAsyncStub:
        """What to call on; what runs on another address or with other credentials is ended."""
        if self._open != (address, credentials):
            await self.close()
            self._channel = open_channel(
                address, own_connection=self._own_connection, credentials=credentials
            )
            self._open = address, credentials
        return FederationServiceStub(self._channel)

    async def close(self) -> None:
        if self._open is not None:
            self._open = None
            await self._channel.close()


class Lines:
    """Both connections.

    Args:
        addresses: of the coordinator, ``HOST:PORT``; all but the first stand by.
        credentials: what this worker shows; without them there is no TLS.

    Attributes:
        changed: set when there are other credentials than those that the stream was opened with.
    """

    def __init__(self, addresses: Sequence[str], credentials: Credentials | None = None) -> None:
        self._addresses = tuple(addresses)
        self._at = self._misses = 0
        self._credentials = credentials
        self._stream = Line(own_connection=False)
        self._bulk = Line(own_connection=True)
        self._admitted = asyncio.Event()
        self._admitted.set()
        self.changed = asyncio.Event()

    @property
    def address(self) -> str:
        """The one to dial now."""
        return self._addresses[self._at]

    @property
    def credentials(self) -> Credentials | None:
        """What this worker shows to whoever it dials next."""
        return self._credentials

    def use(self, credentials: Credentials) -> None:
        """Show these from the next connection on."""
        self._credentials = credentials
        self.changed.set()

    def missed(self) -> bool:
        """Nobody who serves answered: dial the next address.

        Returns:
            Whether all of them have been dialled since somebody answered, so that it is time to
            wait.
        """
        self._misses += 1
        self._at = (self._at + 1) % len(self._addresses)
        return self._misses % len(self._addresses) == 0

    def admit(self, is_admitted: bool) -> None:
        """Note whether the coordinator lets this worker in; transfers wait while it does not."""
        if is_admitted:
            self._misses = 0
            self._admitted.set()
        else:
            self._admitted.clear()

    async def stream(self) -> FederationServiceAsyncStub:
        """For the stream."""
        self.changed.clear()
        return await self._stream.stub(self.address, self._credentials)

    async def bulk(self) -> FederationServiceAsyncStub:
        """For transfers, of which there is one at a time."""
        await self._admitted.wait()
        return await self._bulk.stub(self.address, self._credentials)

    async def close(self) -> None:
        """Give both up."""
        await self._stream.close()
        await self._bulk.close()
