"""A TCP relay that can fall silent: connections stay, no byte gets through until it is lifted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PIECE = 1 << 14


class SilentRelay:
    """Relays to a port of loopback.

    Attributes:
        passing: cleared while it is silent.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.passing = asyncio.Event()
        self.passing.set()
        self.address = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        target: asyncio.StreamWriter | None = None
        try:
            await self.passing.wait()
            answers, target = await asyncio.open_connection("127.0.0.1", self._port)
            ways = [self._pass(reader, target), self._pass(answers, writer)]
            both = [asyncio.create_task(way) for way in ways]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in both:
                    way.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # nobody is there, or the test is over
        finally:
            self._tasks.discard(task)
            for end in (writer, target):
                if end is not None:
                    end.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(PIECE):
                await self.passing.wait()
                target.write(data)
                await target.drain()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def silent_relay(port: int) -> AsyncIterator[SilentRelay]:
    relay = SilentRelay(port)
    server = await asyncio.start_server(relay.take, "127.0.0.1", 0)
    host, bound = server.sockets[0].getsockname()[:2]
    relay.address = f"{host}:{bound}"
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
