from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness import free_port, tiny_recipe
from scripted_coordinator import PATIENCE_S, Scripted, Talking, scripted_coordinator, soon, welcome

from fedfleet.errors import (
    FedFleetError,
    InvalidInput,
    LimitExceeded,
    NotAllowed,
    NotServed,
    Unauthenticated,
    Unavailable,
)
from fedfleet.training.level_probe import LevelFigures, ProbeTask
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.release import SOFTWARE_VERSION
from fedfleet_worker import agent as agent_module
from fedfleet_worker.agent import DOUBT_AFTER, SHORT_S, Agent, Outbox
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk
from fedfleet_worker.lines import Lines
from fedfleet_worker.links import Links
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.training import Bench
from fedfleet_worker.workbench import Workbench


class Waits:
    """Backoffs of no wait that write down which of them was asked, and how often."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self._made = itertools.count()

    def __call__(self) -> Iterator[float]:
        return self._steps(next(self._made))

    def _steps(self, number: int) -> Iterator[float]:
        for step in itertools.count():
            self.asked.append((number, step))
            yield 0.0


class Started(NamedTuple):
    agent: Agent
    outbox: Outbox
    task: asyncio.Task[None]
    lines: Lines
    workbench: Workbench


@asynccontextmanager
async def running(
    coordinator: Scripted,
    folder: Path,
    waits: Waits | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    addresses: tuple[str, ...] = (),
    **more: Any,
) -> AsyncIterator[Started]:
    config, metrics, outbox = WorkerConfig(worker_id="w"), WorkerMetrics(), Outbox()
    with ThreadPoolExecutor(1) as threads:
        workbench = Workbench(
            Bench(config), Disk(folder), coordinator.dial, metrics, threads, outbox.put
        )
        lines = Lines((*addresses, coordinator.address))
        agent = Agent(
            config,
            lines,
            workbench,
            outbox,
            metrics,
            backoff=waits or Waits(),
            clock=clock,
            **more,
        )
        task = asyncio.create_task(agent.run())
        try:
            yield Started(agent, outbox, task, lines, workbench)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await lines.close()


LAST = Exception("the last stream stays")


async def stay(requests: AsyncIterator[pb.ConnectRequest]) -> None:
    async for _ in requests:
        pass


def each(*firsts: Exception | None) -> Talking:
    """Per stream: an error instead of a welcome, or (None) a welcome and an end. Then one stays."""
    script = iter(firsts)

    async def talk(
        hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        error = next(script, LAST)
        if isinstance(error, Exception) and error is not LAST:
            raise error
        yield welcome()
        if error is LAST:
            await stay(requests)
        else:
            yield pb.ConnectResponse(goodbye=pb.Goodbye(reason="another worker", reconnect=True))

    return talk


async def test_agent_says_which_release_it_is(tmp_path: Path) -> None:
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each()
        async with running(coordinator, tmp_path):
            hello = await soon(coordinator.hellos)

    assert (hello.worker_id, hello.software_version) == ("w", SOFTWARE_VERSION)


@pytest.mark.parametrize("fault", [RuntimeError("nobody foresaw this"), FedFleetError("internal")])
async def test_agent_dials_again_after_a_fault_of_the_coordinator(
    fault: Exception, tmp_path: Path
) -> None:
    waits = Waits()
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(fault, fault)
        async with running(coordinator, tmp_path, waits):
            for _ in range(3):
                await soon(coordinator.hellos)

    assert waits.asked == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    "refusal",
    [InvalidInput("tag"), LimitExceeded("tags"), NotAllowed("no"), NotServed("protocol")],
)
async def test_agent_ends_when_its_hello_is_refused_for_good(
    refusal: FedFleetError, tmp_path: Path
) -> None:
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(refusal)
        async with running(coordinator, tmp_path) as (_, _, task, *_):
            with pytest.raises(FedFleetError) as caught:
                await asyncio.wait_for(task, PATIENCE_S)

    assert (caught.value.code, caught.value.message) == (refusal.code, refusal.message)


async def test_agent_dials_again_when_a_later_message_is_refused(tmp_path: Path) -> None:
    async def refuse_the_first(
        hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield welcome()
        # Both are awaited: a status that overtakes a message may get lost in grpc.
        missing = {"heartbeat", "failure"}
        async for request in requests:
            missing.discard(str(request.WhichOneof("message")))
            if not missing:
                raise InvalidInput("the assignment was not given to w")

    async with scripted_coordinator() as coordinator:
        coordinator.talk = refuse_the_first
        async with running(coordinator, tmp_path) as (_, outbox, *_):
            await soon(coordinator.hellos)
            outbox.put(pb.ConnectRequest(failure=pb.AssignmentFailure(assignment_id="other")))
            await soon(coordinator.hellos)


async def test_agent_fails_with_the_cause_when_its_heartbeats_die(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> pb.Heartbeat:
        raise ZeroDivisionError("a bug in a heartbeat")

    monkeypatch.setattr(agent_module, "heartbeat", broken)
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each()
        async with running(coordinator, tmp_path) as (agent, _, task, *_):
            with pytest.raises(ZeroDivisionError, match="a bug in a heartbeat"):
                await asyncio.wait_for(task, PATIENCE_S)
            assert not agent.connected


async def test_agent_waits_longer_after_each_short_stream_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits = Waits()
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(None, None, None)
        with caplog.at_level(logging.WARNING, agent_module.__name__):
            async with running(coordinator, tmp_path, waits):
                for _ in range(4):
                    await soon(coordinator.hellos)

    [first, second, third] = waits.asked
    assert first[0] == second[0] == third[0]
    assert (first[1], second[1], third[1]) == (0, 1, 2)
    warnings = [r for r in caplog.records if r.message == "stream_was_short"]
    assert len(warnings) == 3
    assert vars(warnings[0])["goodbye"] == "another worker"
    assert "FEDFLEET_WORKER_ID" in vars(warnings[0])["hint"]


async def test_agent_dials_soon_after_a_long_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits = Waits()
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(None, None)
        clock = itertools.count(0.0, SHORT_S).__next__
        async with running(coordinator, tmp_path, waits, clock):
            for _ in range(3):
                await soon(coordinator.hellos)

    assert [step for _, step in waits.asked] == [0, 0]
    assert "stream_was_short" not in caplog.text


async def test_agent_tells_at_once_why_the_worker_rests_and_how_fast_its_link_is(
    tmp_path: Path,
) -> None:
    beats: asyncio.Queue[pb.Heartbeat] = asyncio.Queue()

    async def listen(
        hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield welcome(heartbeat_s=3600)
        async for request in requests:
            beats.put_nowait(request.heartbeat)

    reasons, links = [""], Links()
    links.up.note(1 << 20, 2.0)
    links.down.note(1 << 20, 1.0)
    async with scripted_coordinator() as coordinator:
        coordinator.talk = listen
        changes = {"why_paused": lambda: reasons[-1], "links": links}
        async with running(coordinator, tmp_path, **changes) as (agent, *_):
            agent.tell()  # nobody listens yet: the stream begins with a heartbeat anyway
            first = await soon(beats)
            reasons.append("on its battery")
            agent.tell()
            second = await soon(beats)

    assert (first.pause_reason, second.pause_reason) == ("", "on its battery")
    assert second.link_up_bytes_per_s == 1 << 19
    assert second.link_down_bytes_per_s == 1 << 20
    assert beats.empty()


async def test_agent_says_in_its_hello_why_the_worker_rests(tmp_path: Path) -> None:
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each()
        async with running(coordinator, tmp_path, why_paused=lambda: "on its battery"):
            hello = await soon(coordinator.hellos)

    assert hello.pause_reason == "on its battery"


async def test_agent_reads_its_device_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sensors may block, and an accelerator takes seconds to be asked for the first time."""
    readers: dict[str, threading.Thread] = {}

    def read_profile(*_: object) -> pb.DeviceProfile:
        readers["hello"] = threading.current_thread()
        return pb.DeviceProfile()

    def read_heartbeat() -> pb.Heartbeat:
        readers["heartbeat"] = threading.current_thread()
        return pb.Heartbeat()

    monkeypatch.setattr(agent_module, "profile", read_profile)
    monkeypatch.setattr(agent_module, "heartbeat", read_heartbeat)
    beats: asyncio.Queue[pb.Heartbeat] = asyncio.Queue()

    async def listen(
        hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield welcome()
        async for request in requests:
            beats.put_nowait(request.heartbeat)

    async with scripted_coordinator() as coordinator:
        coordinator.talk = listen
        async with running(coordinator, tmp_path) as (agent, *_):
            await soon(beats)
            regular = readers.pop("heartbeat")
            agent.tell()
            await soon(beats)

    loops = threading.current_thread()
    assert loops not in (regular, readers["hello"], readers["heartbeat"])


async def test_agent_tells_what_was_measured_in_its_hello_and_news_at_once(tmp_path: Path) -> None:
    heard: asyncio.Queue[pb.Heartbeat] = asyncio.Queue()

    async def listen(
        hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield welcome()
        async for request in requests:
            heard.put_nowait(request.heartbeat)

    def measure(task: ProbeTask, cancelled: Callable[[], bool]) -> list[LevelFigures]:
        figures = LevelFigures(
            level="a", rate=1.0, parameters=9, samples_per_s=1.0 + len(task.rates), memory_bytes=7
        )
        return [figures]

    def assignment(rates: str) -> pb.Assignment:
        levels = f'[levels]\nrates = {rates}\nassignment = "measured"\ntarget_s = 1.0\n'
        return pb.Assignment(recipe=tiny_recipe() + levels)

    speeds = Speeds(tmp_path / "speeds", measure=measure)
    speeds.look(assignment("[1.0]"), lambda: False)
    async with scripted_coordinator() as coordinator:
        coordinator.talk = listen
        async with running(coordinator, tmp_path, speeds=speeds) as (agent, *_):
            hello = await soon(coordinator.hellos)
            first = await soon(heard)
            speeds.look(assignment("[1.0, 0.5]"), lambda: False)
            agent.tell()
            news = await soon(heard)
            agent.tell()
            after = await soon(heard)

    assert [one.samples_per_s for one in hello.device.levels] == [2.0]
    assert [one.samples_per_s for one in news.levels] == [3.0]
    assert not first.levels
    assert not after.levels


# Where it dials, and as whom


class Doubts:
    """Counts the doubts in a certificate."""

    def __init__(self) -> None:
        self.count = 0

    async def watch(self) -> None:
        raise AssertionError("this one only counts")

    def doubt(self) -> None:
        self.count += 1


async def test_agent_dials_the_next_address_at_once_and_waits_after_each_round(
    tmp_path: Path,
) -> None:
    waits, doubts = Waits(), Doubts()
    closed = tuple(f"127.0.0.1:{free_port()}" for _ in range(2))
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(Unavailable("standing by"), Unavailable("standing by"))
        async with running(
            coordinator, tmp_path, waits, addresses=closed, keeper=doubts
        ) as started:
            for _ in range(3):
                await soon(coordinator.hellos)
            assert started.lines.address == coordinator.address

    assert waits.asked == [(0, 0), (0, 1)]  # for three rounds of three dials
    assert doubts.count == 0


async def test_agent_doubts_its_certificate_when_nobody_answers_again_and_again(
    tmp_path: Path,
) -> None:
    doubts = Doubts()
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(*[Unavailable("hung up")] * (2 * DOUBT_AFTER))
        async with running(coordinator, tmp_path, keeper=doubts):
            for _ in range(2 * DOUBT_AFTER + 1):
                await soon(coordinator.hellos)

    assert doubts.count == 2


async def test_agent_whose_certificate_is_refused_says_so_and_waits_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits, long_waits, doubts = Waits(), Waits(), Doubts()
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(*[Unauthenticated("the certificate was revoked")] * 2)
        async with running(
            coordinator, tmp_path, waits, refused_backoff=long_waits, keeper=doubts
        ) as started:
            for _ in range(3):
                await soon(coordinator.hellos)
            # The third was welcomed, so that transfers go on.
            assert await asyncio.wait_for(started.lines.bulk(), PATIENCE_S)

    assert (long_waits.asked, waits.asked) == ([(0, 0), (0, 1)], [])
    assert doubts.count == 2
    lines = [vars(one) for one in caplog.records if one.message == "certificate_refused"]
    assert [(one["code"], one["detail"]) for one in lines] == [
        ("UNAUTHENTICATED", "the certificate was revoked")
    ] * 2
    assert all("enroll --replace" in one["hint"] for one in lines)


async def test_agent_does_not_wait_any_longer_once_it_has_other_credentials(
    tmp_path: Path,
) -> None:
    async with scripted_coordinator() as coordinator:
        coordinator.talk = each(Unauthenticated("the certificate has ended"))
        async with running(
            coordinator, tmp_path, refused_backoff=lambda: itertools.repeat(3600.0)
        ) as started:
            await soon(coordinator.hellos)
            started.lines.changed.set()  # the same, of which nobody here asks
            await soon(coordinator.hellos)


async def test_agent_opens_its_stream_anew_in_a_quiet_moment_and_loses_no_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def listen(
        hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield welcome()
        async for request in requests:
            heard.put_nowait(str(request.WhichOneof("message")))
        heard.put_nowait("end")

    async with scripted_coordinator() as coordinator:
        coordinator.talk = listen
        async with running(coordinator, tmp_path) as started:
            assert await soon(heard) == "heartbeat"
            started.workbench.idle.clear()  # it works
            started.lines.changed.set()
            started.outbox.put(pb.ConnectRequest(failure=pb.AssignmentFailure()))
            assert await soon(heard) == "failure"
            assert heard.empty()

            started.workbench.idle.set()

            assert await soon(heard) == "end"
            assert await soon(heard) == "heartbeat"
            assert coordinator.hellos.qsize() == 2

    assert "stream_was_short" not in caplog.messages
    assert "stream_ended" not in caplog.messages
