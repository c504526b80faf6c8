from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedfleet.errors import NotFound, Unavailable
from fedfleet_inference_api.aside import Aside

PATIENCE_S = 10.0


async def test_calls_that_block_leave_the_threads_of_all_requests_alone():
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    aside, go = Aside("slow", most=2), threading.Event()

    try:
        slow = [asyncio.ensure_future(aside.run(go.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="try again"):
            await aside.run(go.wait)
        meanwhile = await asyncio.wait_for(asyncio.to_thread(int, "7"), PATIENCE_S)
        threads = [thread for thread in threading.enumerate() if thread.name == "slow"]
    finally:
        go.set()

    assert meanwhile == 7
    assert [thread.daemon for thread in threads] == [True, True], "nobody waits for them at a stop"
    assert await asyncio.gather(*slow) == [True, True]
    assert await aside.run(lambda: 3) == 3, "their places are free again"


async def test_caller_that_leaves_does_not_free_a_place_that_is_taken():
    aside, go = Aside("slow", most=1), threading.Event()

    try:
        left = asyncio.ensure_future(aside.run(go.wait))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        with pytest.raises(Unavailable):
            await aside.run(go.wait)
    finally:
        go.set()


def _raises(error: Exception) -> None:
    raise error


async def test_error_of_a_call_is_the_callers():
    aside = Aside("slow", most=1)

    with pytest.raises(NotFound, match="no such thing"):
        await aside.run(lambda: _raises(NotFound("no such thing")))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_error_of_ours_keeps_nobody_waiting():
    aside = Aside("slow", most=1)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="slow failed"):
            await asyncio.wait_for(aside.run(lambda: _raises(KeyError("x"))), PATIENCE_S)

    for thread in [thread for thread in threading.enumerate() if thread.name == "slow"]:
        thread.join(PATIENCE_S)  # or its error would be reported in the middle of another test
