from __future__ import annotations

import asyncio

import pytest

from fedfleet.rpc.patience import within


async def test_within_gives_the_result_or_raises_what_was_raised() -> None:
    async def fail() -> int:
        raise KeyError("x")

    assert await within(20, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(KeyError):
        await within(20, fail())


async def test_within_cancels_what_takes_too_long() -> None:
    never = asyncio.get_running_loop().create_future()

    with pytest.raises(asyncio.TimeoutError):
        await within(0, never)

    assert never.cancelled()


async def test_within_keeps_a_cancellation_that_comes_with_the_result() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    task = asyncio.create_task(within(20, future))

    def finish_and_cancel() -> None:
        future.set_result(1)
        task.cancel()

    loop.call_soon(finish_and_cancel)

    with pytest.raises(asyncio.CancelledError):
        await task
