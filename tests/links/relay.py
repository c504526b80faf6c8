"""A TCP relay between workers and a coordinator that cuts every connection at given offsets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager

# Both sides get a reset, as from a router that forgot the connection.
RESET = struct.pack("ii", 1, 0)
PIECE = 1 << 14


class CuttingRelay:
    """Relays to a port of loopback.

    Args:
        cuts: numbers of bytes on their way to the coordinator, over all connections since the
            start, at which every open connection is cut; increasing.
    """

    def __init__(self, port: int, cuts: Iterable[int]) -> None:
        self._target = ("127.0.0.1", port)
        self._cuts = list(cuts)
        self._open: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.relayed_bytes = 0
        self.cuts_done = 0
        self.address = ""

    def cut_at(self, relayed_bytes: int) -> None:
        """Cut once more, after the cuts that are still to come."""
        self._cuts.append(relayed_bytes)

    async def serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                worker, _ = await loop.sock_accept(listener)
                self._start(self._relay(worker))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._cut()

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _relay(self, worker: socket.socket) -> None:
        coordinator = socket.socket()
        for end in (worker, coordinator):
            end.setblocking(False)
            self._open.add(end)
        try:
            await asyncio.get_running_loop().sock_connect(coordinator, self._target)
            both = (
                self._start(self._up(worker, coordinator)),
                self._start(self._down(coordinator, worker)),
            )
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            pass  # no coordinator there: the worker finds its connection reset
        finally:
            self._reset(worker)
            self._reset(coordinator)

    async def _up(self, worker: socket.socket, coordinator: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(worker, PIECE):
            due = self._cuts[0] - self.relayed_bytes if self._cuts else len(data) + 1
            passed = data[:due]
            self.relayed_bytes += len(passed)
            await loop.sock_sendall(coordinator, passed)
            if self._cuts and self.relayed_bytes >= self._cuts[0]:
                self._cuts.pop(0)
                self.cuts_done += 1
                self._cut()
                return

    async def _down(self, coordinator: socket.socket, worker: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(coordinator, PIECE):
            await loop.sock_sendall(worker, data)

    def _cut(self) -> None:
        for end in list(self._open):
            self._reset(end)

    def _reset(self, end: socket.socket) -> None:
        if end in self._open:
            self._open.discard(end)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            asyncio.get_running_loop().remove_reader(end)
            asyncio.get_running_loop().remove_writer(end)
            end.close()


@asynccontextmanager
async def cutting_relay(port: int, cuts: Iterable[int]) -> AsyncIterator[CuttingRelay]:
    relay = CuttingRelay(port, cuts)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        relay.address = f"127.0.0.1:{listener.getsockname()[1]}"
        task = asyncio.create_task(relay.serve(listener))
        try:
            yield relay
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
