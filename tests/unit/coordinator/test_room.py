from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from fedfleet.rpc.patience import within
from fedfleet.wire.limits import CHUNK_BYTES
from fedfleet_coordinator.metrics import CoordinatorMetrics
from fedfleet_coordinator.room import Room


class Watched:
    """Room, and the gauge that operators see."""

    def __init__(self, size_mb: int) -> None:
        self._metrics = CoordinatorMetrics()
        self.room = Room(size_mb, self._metrics)
        self.chunks = (size_mb << 20) // CHUNK_BYTES

    @property
    def in_flight_bytes(self) -> float:
        name = "fedfleet_coordinator_upload_in_flight_bytes"
        found = self._metrics.registry.get_sample_value(name)
        assert found is not None
        return found

    async def is_full(self) -> bool:
        async def enter() -> None:
            async with self.room.hold():
                pass

        try:
            await within(0.05, enter())
        except asyncio.TimeoutError:
            return True
        return False


@pytest.mark.parametrize("size_mb", [1, 3])
async def test_room_holds_as_many_chunks_as_fit_and_no_more(size_mb: int) -> None:
    watched = Watched(size_mb)
    async with AsyncExitStack() as held:
        for count in range(watched.chunks):
            assert not await watched.is_full()
            await held.enter_async_context(watched.room.hold())
            assert watched.in_flight_bytes == (count + 1) * CHUNK_BYTES

        assert await watched.is_full()
        assert watched.in_flight_bytes == size_mb << 20

    # Who waited in vain has taken nothing with it.
    assert watched.in_flight_bytes == 0
    assert not await watched.is_full()


async def test_room_is_given_to_those_who_wait_in_their_order() -> None:
    watched = Watched(1)
    order: list[int] = []

    async def take(number: int) -> None:
        async with watched.room.hold():
            order.append(number)
            assert watched.in_flight_bytes == CHUNK_BYTES

    async with watched.room.hold():
        waiting = [asyncio.create_task(take(number)) for number in range(5)]
        assert await watched.is_full()
        assert order == []
    await asyncio.gather(*waiting)

    assert order == [0, 1, 2, 3, 4]
    assert watched.in_flight_bytes == 0


async def test_room_of_an_upload_that_fails_or_is_cancelled_is_free_again() -> None:
    watched = Watched(1)
    with pytest.raises(ValueError, match="damaged"):
        async with watched.room.hold():
            raise ValueError("damaged")
    assert (watched.in_flight_bytes, await watched.is_full()) == (0, False)

    holds = asyncio.Event()

    async def hold_for_ever() -> None:
        async with watched.room.hold():
            holds.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold_for_ever())
    await holds.wait()
    assert (watched.in_flight_bytes, await watched.is_full()) == (CHUNK_BYTES, True)
    task.cancel()
    await asyncio.wait([task])
    assert (watched.in_flight_bytes, await watched.is_full()) == (0, False)
