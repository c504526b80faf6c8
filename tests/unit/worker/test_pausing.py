from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import replace

import pytest

from fedfleet.errors import TimedOut
from fedfleet_worker import pausing as pausing_module
from fedfleet_worker.guest import Condition, Hours, Limits
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.pausing import Pausing

PATIENCE_S = 20.0
LIMITS = Limits(temperature_celsius=70, hours=Hours(3600, 7200), network="unmetered")
GOOD = Condition(at_s=3600, temperature_celsius=50.0)
HOT = replace(GOOD, temperature_celsius=80.0)
EARLY = replace(GOOD, at_s=600)  # 50 minutes before the hours


class Device:
    """A device whose condition the test says."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition

    def read(self) -> Condition:
        return self.condition


class Resting:
    """A worker's pausing on such a device, and how often it told of a change."""

    def __init__(self, condition: Condition = GOOD) -> None:
        self.device = Device(condition)
        self.metrics = WorkerMetrics()
        self.changes = 0
        self.pausing = Pausing(LIMITS, self.metrics, self.device, self._note)

    def _note(self) -> None:
        self.changes += 1

    async def becomes(self, condition: Condition) -> None:
        self.device.condition = condition
        await self.pausing.look()

    @property
    def gauge(self) -> float | None:
        return self.metrics.registry.get_sample_value("fedfleet_worker_paused")


def soon_s() -> float:
    return time.monotonic() + PATIENCE_S


async def test_pausing_tells_of_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, pausing_module.__name__)
    worker = Resting()
    for condition in (GOOD, HOT, replace(HOT, temperature_celsius=85.0), GOOD, GOOD):
        await worker.becomes(condition)
        assert worker.gauge == (condition.temperature_celsius != 50)

    assert worker.changes == 2
    [paused, resumed] = caplog.records
    assert (paused.message, resumed.message) == ("paused", "resumed")
    assert vars(paused)["reason"] == "80 degrees Celsius, above 70"
    assert vars(resumed)["reason"] == "85 degrees Celsius, above 70"
    assert worker.pausing.reason == ""


async def test_pausing_without_limits_reads_nothing() -> None:
    pausing = Pausing(Limits(), WorkerMetrics(), Device(HOT))
    await pausing.look()
    await pausing.until_free(soon_s())

    assert pausing.reason == ""


async def test_pausing_watches_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing_module, "POLL_S", 0.01)
    worker = Resting(HOT)
    await worker.pausing.look()
    watch = asyncio.create_task(worker.pausing.watch())
    wait = asyncio.create_task(worker.pausing.until_free(soon_s()))
    await asyncio.sleep(0)
    assert not wait.done()

    worker.device.condition = GOOD
    await asyncio.wait_for(wait, PATIENCE_S)

    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def test_pausing_gives_up_at_the_deadline() -> None:
    worker = Resting()
    await worker.becomes(HOT)

    with pytest.raises(TimedOut, match="rests until the deadline: 80 degrees Celsius, above 70"):
        await worker.pausing.until_free(time.monotonic() + 0.05)


async def test_pausing_gives_up_at_once_when_its_hours_come_too_late() -> None:
    worker = Resting()
    await worker.becomes(EARLY)

    began_s = time.monotonic()
    with pytest.raises(TimedOut, match="outside its hours 01:00-02:00"):
        await worker.pausing.until_free(began_s + 2999)
    assert time.monotonic() - began_s < PATIENCE_S

    wait = asyncio.create_task(worker.pausing.until_free(began_s + 3600))
    await asyncio.sleep(0)
    assert not wait.done()
    await worker.becomes(GOOD)
    await asyncio.wait_for(wait, PATIENCE_S)


async def test_pausing_holds_transfers_for_the_network_alone() -> None:
    worker = Resting()
    await worker.becomes(HOT)
    await asyncio.wait_for(worker.pausing.until_network(), PATIENCE_S)

    await worker.becomes(replace(GOOD, is_metered=True))
    wait = asyncio.create_task(worker.pausing.until_network())
    await asyncio.sleep(0)
    assert not wait.done()
    await worker.becomes(GOOD)
    await asyncio.wait_for(wait, PATIENCE_S)


@pytest.mark.parametrize("ends", ["pause", "cancel"])
async def test_pausing_holds_a_thread_until_the_pause_or_the_work_ends(ends: str) -> None:
    worker, over, begun = Resting(), threading.Event(), threading.Event()
    await worker.becomes(HOT)

    def work() -> None:
        begun.set()
        worker.pausing.hold(over.is_set)

    thread = asyncio.create_task(asyncio.to_thread(work))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    assert not thread.done()
    if ends == "cancel":
        over.set()
    else:
        await worker.becomes(GOOD)

    await asyncio.wait_for(thread, PATIENCE_S)
