from __future__ import annotations

import asyncio

import pytest

from fedfleet.rpc.supervisor import Supervisor


async def forever() -> None:
    await asyncio.Event().wait()


async def fail(error: Exception) -> None:
    raise error


async def test_supervisor_returns_when_asked_to_stop() -> None:
    supervisor, stop = Supervisor(), asyncio.Event()
    supervisor.start("worker", forever())
    stop.set()

    await supervisor.run_until(stop)
    await supervisor.close()

    assert supervisor.error is None


async def test_supervisor_raises_and_logs_the_first_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor = Supervisor()
    first = ValueError("first")
    task = supervisor.start("heartbeat", fail(first))
    supervisor.start("other", forever())

    with pytest.raises(ValueError, match="first"):
        await supervisor.run_until(asyncio.Event())
    supervisor.start("later", fail(ValueError("second")))
    await supervisor.close()

    assert task.done()
    assert supervisor.error is first
    assert [vars(r)["task"] for r in caplog.records][:1] == ["heartbeat"]


async def test_supervisor_leaves_a_task_that_ends_alone() -> None:
    supervisor = Supervisor()

    assert await supervisor.start("short", asyncio.sleep(0, "done")) == "done"
    await supervisor.close()

    assert not supervisor.failed.is_set()


async def test_close_waits_for_the_clean_up_of_every_task() -> None:
    supervisor, ended = Supervisor(), []
    started = asyncio.Event()

    async def tidy() -> None:
        try:
            started.set()
            await forever()
        finally:
            await asyncio.sleep(0)
            ended.append("tidy")

    supervisor.start("tidy", tidy())
    await started.wait()
    await supervisor.close()

    assert ended == ["tidy"]


async def test_cancelled_task_is_no_failure() -> None:
    supervisor = Supervisor()
    task = supervisor.start("worker", forever())

    task.cancel()
    await supervisor.close()

    assert not supervisor.failed.is_set()
