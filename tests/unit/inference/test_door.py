from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from fedfleet_inference_api.door import REFUSED_AT_ONCE, Door, listen


@pytest.fixture
def door() -> Iterator[Door]:
    with listen("127.0.0.1", 0) as listener:
        listener.settimeout(10)
        yield listener


def knock(door: Door, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(door.getsockname(), timeout=10, source_address=(source, 0))


def is_closed(caller: socket.socket) -> bool:
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


def test_door_holds_so_many_and_lets_in_again_when_one_has_gone(door):
    door.most = 2
    refused: list[str] = []
    door.refused = refused.append
    with knock(door), knock(door):
        first, _ = door.accept()
        second, _ = door.accept()
        with knock(door) as third:
            door.setblocking(False)
            with pytest.raises(BlockingIOError):
                door.accept()
            assert is_closed(third)
        assert (door.held, refused) == (2, ["all"])

        first.close()
        first.close()
        assert door.held == 1
        with knock(door):
            door.settimeout(10)
            again, _ = door.accept()
            assert door.held == 2
            again.close()
        second.close()
    assert door.held == 0


def test_door_counts_each_group_apart(door):
    door.most_per_group = 1
    refused: list[str] = []
    door.refused = refused.append
    door.group = lambda host: "" if host == "127.0.0.3" else host
    callers = [knock(door, f"127.0.0.{n}") for n in (1, 1, 2, 3, 3, 2)]

    held = [door.accept() for _ in range(4)]

    assert [address[0] for _, address in held] == [f"127.0.0.{n}" for n in (1, 2, 3, 3)]
    door.setblocking(False)
    with pytest.raises(BlockingIOError):
        door.accept()
    assert refused == ["address"] * 2
    for connection, _ in held:
        connection.close()
    assert (door.held, len(door._groups)) == (0, 0)
    for caller in callers:
        caller.close()


def test_door_refuses_a_flood_in_portions(door):
    door.most = 0
    callers = [knock(door) for _ in range(REFUSED_AT_ONCE + 5)]
    refused: list[str] = []
    door.refused = refused.append

    with pytest.raises(BlockingIOError):
        door.accept()

    assert len(refused) == REFUSED_AT_ONCE
    for caller in callers:
        caller.close()


async def test_what_is_written_is_sent_at_once(door):
    """A listener that does not say TCP has the event loop leave Nagle's algorithm on: 40 ms."""
    asked: asyncio.Queue[int] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = writer.get_extra_info("socket")
        await asked.put(held.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    door.setblocking(False)
    async with await asyncio.start_server(serve, sock=door):
        with knock(door):
            assert await asyncio.wait_for(asked.get(), 10) != 0
