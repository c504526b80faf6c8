from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from scripted_coordinator import Scripted, scripted_coordinator, soon, welcome

from fedfleet.identity.authority import Authority
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker.lines import Lines

Answers = AsyncIterator[pb.ConnectResponse]


def test_lines_come_around_once_every_address_was_dialled() -> None:
    lines = Lines(("a:1", "b:1", "c:1"))

    dialled = [(lines.address, lines.missed()) for _ in range(6)]

    once = [("a:1", False), ("b:1", False), ("c:1", True)]
    assert dialled == once * 2


def test_lines_begin_anew_with_the_address_that_answered() -> None:
    lines = Lines(("a:1", "b:1"))
    assert not lines.missed()
    lines.admit(True)

    assert lines.address == "b:1"
    assert not lines.missed()
    assert lines.address == "a:1"
    assert lines.missed()


async def test_lines_are_opened_anew_at_another_address_only() -> None:
    async def stay(hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]) -> Answers:
        yield welcome()
        async for _ in requests:
            pass

    async with scripted_coordinator() as first, scripted_coordinator() as second:
        first.talk = second.talk = stay
        lines = Lines((first.address, second.address))
        try:
            calls = [await greeted(lines, first), await greeted(lines, first)]
            assert not any(call.done() for call in calls)
            lines.missed()
            calls.append(await greeted(lines, second))

            assert [call.done() for call in calls] == [True, True, False]
        finally:
            await lines.close()


async def greeted(lines: Lines, coordinator: Scripted) -> Any:
    """A call that the coordinator has taken."""
    call = (await lines.stream()).Connect()
    await call.write(pb.ConnectRequest(hello=pb.Hello(worker_id="w")))
    await soon(coordinator.hellos)
    return call


async def test_lines_say_that_there_are_other_credentials_until_they_are_used(
    tmp_path: Path,
) -> None:
    lines = Lines(("127.0.0.1:1",))
    lines.use(Authority.open(tmp_path / "authority").local_operator())
    assert lines.changed.is_set()
    try:
        await lines.bulk()
        assert lines.changed.is_set()
        await lines.stream()
        assert not lines.changed.is_set()
    finally:
        await lines.close()


async def test_lines_hold_transfers_back_while_the_worker_is_not_admitted() -> None:
    lines = Lines(("127.0.0.1:1",))
    lines.admit(False)
    waiting = asyncio.create_task(lines.bulk())
    try:
        await asyncio.sleep(0)
        assert not waiting.done()
        lines.admit(True)

        assert await asyncio.wait_for(waiting, 20)
    finally:
        waiting.cancel()
        await lines.close()
