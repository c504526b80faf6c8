from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import initial_of, tiny_recipe
from scripted_coordinator import PATIENCE_S, Scripted, ready, receipt, scripted_coordinator, soon
from worker_updates import keep_update

from fedfleet.errors import (
    AssignmentClosed,
    ChecksumMismatch,
    FedFleetError,
    StoreFull,
    TransferInvalid,
    Unauthenticated,
    Unavailable,
    UpdateNotFinite,
)
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.level_probe import LevelFigures, ProbeTask
from fedfleet.training.local import LocalTrainer
from fedfleet.training.state import initial_state
from fedfleet.training.submodels import SubModels
from fedfleet.training.trainers import Trainers
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES
from fedfleet.wire.weights import encode_state
from fedfleet_worker import workbench as workbench_module
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk, Finished
from fedfleet_worker.guest import Condition, Limits
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.pausing import Pausing
from fedfleet_worker.room import Room
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.training import Bench
from fedfleet_worker.workbench import STUCK, Workbench

RECIPE = """
name = "plugged"
[model]
architecture = "edge"
[data]
dataset = "synthetic"
partition = "iid"
workers = 1
[training]
threads = 1
[rounds]
rounds = 1
cohort = 1
"""
PLUGIN = """
import threading
import torch
from harness import initial_of, tiny_recipe

started, go = threading.Event(), threading.Event()

class Edge(torch.nn.Module):
    def __init__(self, inputs, num_classes):
        super().__init__()
        self.dense = torch.nn.Linear(inputs.channels * inputs.height * inputs.width, num_classes)

    def forward(self, images):
        {body}
        return self.dense(images.flatten(1))

def build(inputs, num_classes, **options):
    return Edge(inputs, num_classes)
"""


@dataclass
class Working:
    """A workbench at work, with what it sent on the stream."""

    workbench: Workbench
    disk: Disk
    metrics: WorkerMetrics
    threads: ThreadPoolExecutor
    room: Room
    sent: asyncio.Queue[pb.ConnectRequest] = field(default_factory=asyncio.Queue)

    def count(self, result: str) -> float:
        labels = {"result": result}
        return (
            self.metrics.registry.get_sample_value("fedfleet_worker_assignments_total", labels)
            or 0.0
        )

    async def sent_soon(self, kind: str) -> Any:
        while (message := await soon(self.sent)).WhichOneof("message") != kind:
            pass
        return getattr(message, kind)


@asynccontextmanager
async def working(
    coordinator: Scripted,
    folder: Path,
    backoff: Callable[[], Iterator[float]] = lambda: itertools.repeat(0.0),
    pausing: Pausing | None = None,
    speeds: Speeds | None = None,
    on_refusal: Callable[[], None] = lambda: None,
) -> AsyncIterator[Working]:
    disk, metrics = Disk(folder), WorkerMetrics()
    room = Room(disk, on_refusal)
    sent: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
    config = WorkerConfig(worker_id="w", shard=0, state_dir=folder)
    with ThreadPoolExecutor(1) as threads:
        workbench = Workbench(
            Bench(config),
            disk,
            coordinator.dial,
            metrics,
            threads,
            sent.put_nowait,
            backoff,
            pausing=pausing,
            room=room,
            speeds=speeds,
        )
        tasks = [asyncio.create_task(work) for work in (workbench.work(), room.watch())]
        try:
            yield Working(workbench, disk, metrics, threads, room, sent)
            assert not tasks[0].done(), tasks[0].exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def unknown_version(assignment_id: str) -> pb.Assignment:
    digest = hashlib.sha256(assignment_id.encode()).hexdigest()
    recipe = tiny_recipe()
    return pb.Assignment(
        assignment_id=assignment_id,
        round=2,  # of the first it would compute the version
        base_digest=digest,
        base_bytes=100,
        recipe=recipe,
        schema_digest=initial_of(recipe).schema.digest,
    )


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package with a model whose forward has a given body."""
    # Any: pytest's fixture of a function.
    monkeypatch.delitem(sys.modules, "edge_plug_in", raising=False)

    def install(body: str) -> None:
        site = tmp_path / "installed"
        info = site / "edge_plug_in-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "edge_plug_in.py").write_text(PLUGIN.format(body=body))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-plug-in\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[fedfleet.models]\nedge = edge_plug_in:build\n")
        monkeypatch.syspath_prepend(str(site))

    return install


def plugged(coordinator: Scripted, assignment_id: str) -> pb.Assignment:
    """An assignment to train the plug-in's model, whose version the coordinator has."""
    state = initial_state(card_of(parse_recipe(RECIPE)), seed=1)
    version = encode_state(state)
    digest = hashlib.sha256(version).hexdigest()
    coordinator.blobs[digest] = version
    return pb.Assignment(
        assignment_id=assignment_id,
        run_id="r-1",
        round=1,
        kind=pb.ASSIGNMENT_KIND_TRAIN,
        base_digest=digest,
        base_bytes=len(version),
        schema_digest=state.schema.digest,
        recipe=RECIPE,
    )


# Faults of plug-ins


@pytest.mark.parametrize(
    "fault",
    [
        "ValueError",
        "KeyError",
        "TypeError",
        "IndexError",
        "AssertionError",
        "StopIteration",
    ],
)
async def test_workbench_reports_any_fault_of_a_plug_in_and_works_on(
    fault: str, plug_in: Any, tmp_path: Path
) -> None:
    plug_in(f"raise {fault}('a secret path\\nand more')")
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path / "state") as work,
    ):
        for assignment_id in ("r-1/1/1/train/w", "r-1/1/2/train/w"):
            work.workbench.offer(plugged(coordinator, assignment_id))
            failure = await work.sent_soon("failure")

            assert failure.assignment_id == assignment_id
            assert failure.code == "TRAINING_FAILED"
            assert fault in failure.message
            assert "secret" not in failure.message
            assert "\n" not in failure.message


# A device with limits


@pytest.mark.parametrize(
    "fault",
    ["MemoryError()", 'RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory")'],
)
async def test_workbench_reports_a_device_that_is_too_small_and_sets_up_anew(
    fault: str, plug_in: Any, tmp_path: Path
) -> None:
    async def take(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield receipt(header)

    plug_in(f"""if not started.is_set():
            started.set()
            raise {fault}""")
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path / "state") as work,
    ):
        coordinator.upload = take
        work.workbench.offer(plugged(coordinator, "r-1/1/1/train/w"))
        failure = await work.sent_soon("failure")
        work.workbench.offer(plugged(coordinator, "r-1/1/2/train/w"))

        assert (failure.assignment_id, failure.code) == ("r-1/1/1/train/w", "OUT_OF_MEMORY")
        assert await soon(coordinator.uploads) == "r-1/1/2/train/w"


LEVELS = """
name = "levels"
[model]
architecture = "mlp"
hidden = [8]
[data]
dataset = "synthetic"
partition = "iid"
workers = 1
[training]
threads = 1
[levels]
rates = [1.0, 0.5]
{more}
[rounds]
rounds = 1
cohort = 1
"""


def narrow(coordinator: Scripted, assignment_id: str, more: str = "") -> pb.Assignment:
    """An assignment to train level b, whose version the coordinator has."""
    recipe = parse_recipe(LEVELS.format(more=more))
    assert recipe.levels is not None
    models = SubModels(card_of(recipe), recipe.levels.rates)
    state = models.slice("b").cut(initial_state(card_of(recipe), seed=1))
    version = encode_state(state)
    digest = hashlib.sha256(version).hexdigest()
    coordinator.blobs[digest] = version
    return pb.Assignment(
        assignment_id=assignment_id,
        run_id="r-1",
        round=1,
        kind=pb.ASSIGNMENT_KIND_TRAIN,
        base_digest=digest,
        base_bytes=len(version),
        schema_digest=state.schema.digest,
        recipe=LEVELS.format(more=more),
        level="b",
    )


async def take(
    header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
) -> AsyncIterator[pb.UploadResponse]:
    yield receipt(header)


async def test_workbench_survives_a_level_that_cannot_even_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, refusals = Trainers.at, iter(["first", "second"])

    def at(self: Trainers, level: str = "a") -> LocalTrainer:
        if next(refusals, None) is not None:
            raise MemoryError
        return build(self, level)

    monkeypatch.setattr(Trainers, "at", at)
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path / "state") as work,
    ):
        coordinator.upload = take
        for assignment_id in ("r-1/1/1/train/w", "r-1/1/2/train/w"):
            work.workbench.offer(narrow(coordinator, assignment_id))
            failure = await work.sent_soon("failure")
            assert (failure.assignment_id, failure.code) == (assignment_id, "OUT_OF_MEMORY")
        work.workbench.offer(narrow(coordinator, "r-1/1/3/train/w"))

        assert await soon(coordinator.uploads) == "r-1/1/3/train/w"


async def test_workbench_survives_memory_that_cannot_be_released(
    plug_in: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(workbench_module, "release_memory", refuse)
    plug_in("raise MemoryError")
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path / "state") as work,
    ):
        for assignment_id in ("r-1/1/1/train/w", "r-1/1/2/train/w"):
            work.workbench.offer(plugged(coordinator, assignment_id))
            failure = await work.sent_soon("failure")
            assert (failure.assignment_id, failure.code) == (assignment_id, "OUT_OF_MEMORY")

    assert "memory_not_released" in caplog.messages


class Metered:
    """A device behind a mobile modem, for as long as the test says."""

    def __init__(self) -> None:
        self.is_metered: bool | None = True
        self.pausing = Pausing(Limits(network="unmetered"), WorkerMetrics(), self)

    def read(self) -> Condition:
        return Condition(at_s=0, is_metered=self.is_metered)

    async def comes_home(self) -> None:
        self.is_metered = None
        await self.pausing.look()


async def test_workbench_begins_no_assignment_while_the_worker_rests(tmp_path: Path) -> None:
    device = Metered()
    await device.pausing.look()
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path, pausing=device.pausing) as work,
    ):
        late = unknown_version("a/1/1/train/w")
        late.deadline_s = 0.01
        work.workbench.offer(late)
        work.workbench.offer(unknown_version("b/1/1/train/w"))
        failure = await work.sent_soon("failure")

        assert (failure.assignment_id, failure.code) == (late.assignment_id, "TIMED_OUT")
        assert "on a metered network" in failure.message
        assert work.workbench.held == ("b/1/1/train/w",)
        assert coordinator.downloads.empty()

        await device.comes_home()
        await soon(coordinator.downloads)


async def test_workbench_lets_go_of_a_cancelled_assignment_while_the_worker_rests(
    tmp_path: Path,
) -> None:
    device = Metered()
    await device.pausing.look()
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path, pausing=device.pausing) as work,
    ):
        work.workbench.offer(unknown_version("a/1/1/train/w"))
        late = unknown_version("b/1/1/train/w")
        late.deadline_s = 0.01
        work.workbench.offer(late)
        await asyncio.sleep(0)
        work.workbench.cancel("a/1/1/train/w")

        assert (await work.sent_soon("failure")).assignment_id == late.assignment_id
        assert work.count("abandoned") == 1


async def test_workbench_keeps_a_finished_update_until_the_network_is_free(tmp_path: Path) -> None:
    async def take(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield receipt(header)

    device = Metered()
    await device.pausing.look()
    assignment_id = keep_update(tmp_path).assignment_id
    async with scripted_coordinator() as coordinator:
        coordinator.upload = take
        async with working(coordinator, tmp_path, pausing=device.pausing) as work:
            await asyncio.sleep(0)
            assert work.workbench.held == (assignment_id,)
            assert coordinator.uploads.empty()

            await device.comes_home()

            assert await soon(coordinator.uploads) == assignment_id


async def test_workbench_holds_a_transfer_that_was_cut_when_the_network_became_metered(
    tmp_path: Path,
) -> None:
    device = Metered()
    device.is_metered = None
    attempts = 0

    async def cut(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        nonlocal attempts
        attempts += 1
        if attempts > 1:
            yield receipt(header)
            return
        device.is_metered = True  # Wi-Fi has gone, and the modem has taken over
        raise Unavailable("cut")

    def resting() -> None:
        rests.set()

    rests = asyncio.Event()
    device.pausing = Pausing(Limits(network="unmetered"), WorkerMetrics(), device, resting)
    assignment_id = keep_update(tmp_path).assignment_id
    async with scripted_coordinator() as coordinator:
        coordinator.upload = cut
        async with working(coordinator, tmp_path, pausing=device.pausing) as work:
            await asyncio.wait_for(rests.wait(), PATIENCE_S)
            assert coordinator.uploads.qsize() == 1
            assert work.workbench.held == (assignment_id,)

            await device.comes_home()

            assert await soon(coordinator.uploads) == assignment_id
            assert await soon(coordinator.uploads) == assignment_id


async def test_workbench_ends_an_attempt_when_the_network_becomes_metered(tmp_path: Path) -> None:
    device, ended = Metered(), asyncio.Event()
    device.is_metered = None

    async def hang(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        if ended.is_set():
            yield receipt(header)
            return
        try:
            yield ready(0)
            await asyncio.Event().wait()
        finally:
            ended.set()

    assignment_id = keep_update(tmp_path).assignment_id
    async with scripted_coordinator() as coordinator:
        coordinator.upload = hang
        async with working(coordinator, tmp_path, pausing=device.pausing) as work:
            assert await soon(coordinator.uploads) == assignment_id
            device.is_metered = True
            await device.pausing.look()

            await asyncio.wait_for(ended.wait(), PATIENCE_S)
            assert work.workbench.held == (assignment_id,)
            assert coordinator.uploads.empty()

            await device.comes_home()
            assert await soon(coordinator.uploads) == assignment_id


async def test_workbench_ends_a_probe_when_the_worker_is_to_rest_and_begins_it_anew(
    tmp_path: Path,
) -> None:
    device, begun = Metered(), threading.Event()
    device.is_metered = None
    probes = 0

    def measure(task: ProbeTask, cancelled: Callable[[], bool]) -> list[LevelFigures]:
        nonlocal probes
        probes += 1
        begun.set()
        while probes == 1 and not cancelled():
            begun.wait(0.01)
        if cancelled():
            raise AssignmentClosed("the probe was cancelled")
        return [LevelFigures(level="b", rate=0.5, parameters=9, samples_per_s=3.0, memory_bytes=0)]

    speeds = Speeds(tmp_path / "speeds", measure=measure)
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path / "s", pausing=device.pausing, speeds=speeds) as work,
    ):
        coordinator.upload = take
        measured = 'assignment = "measured"\ntarget_s = 5.0'
        work.workbench.offer(narrow(coordinator, "r-1/1/1/train/w", measured))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        device.is_metered = True
        await device.pausing.look()
        # The next in the queue of the thread: by then the probe has ended.
        await asyncio.wait_for(asyncio.wrap_future(work.threads.submit(str)), PATIENCE_S)
        assert (probes, speeds.known) == (1, ())
        assert work.sent.empty()

        await device.comes_home()

        assert await soon(coordinator.uploads) == "r-1/1/1/train/w"
        assert probes == 2
        assert [one.samples_per_s for one in speeds.known] == [3.0]


# Cancelling


async def test_workbench_ends_a_cancelled_download_and_takes_the_next_assignment(
    tmp_path: Path,
) -> None:
    async def away(request: pb.DownloadRequest) -> AsyncIterator[pb.DownloadResponse]:
        raise Unavailable("not now")
        yield

    async with scripted_coordinator() as coordinator:
        coordinator.download = away
        async with working(coordinator, tmp_path) as work:
            first, second = unknown_version("a/1/1/train/w"), unknown_version("b/1/1/train/w")
            work.workbench.offer(first)
            work.workbench.offer(second)
            assert await soon(coordinator.downloads) == first.base_digest

            work.workbench.cancel(first.assignment_id)

            while await soon(coordinator.downloads) != second.base_digest:
                pass
            assert work.workbench.held == (second.assignment_id,)
            assert work.count("abandoned") == 1
            assert work.sent.empty()


async def test_workbench_ends_a_cancelled_upload_and_drops_its_update(tmp_path: Path) -> None:
    async def silent(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(0)
        await asyncio.Event().wait()

    assignment_id = keep_update(tmp_path).assignment_id
    async with scripted_coordinator() as coordinator:
        coordinator.upload = silent
        async with working(coordinator, tmp_path) as work:
            assert await soon(coordinator.uploads) == assignment_id
            work.workbench.offer(unknown_version("b/1/1/train/w"))

            work.workbench.cancel(assignment_id)

            await work.sent_soon("failure")  # of the next, whose version nobody has
            assert work.disk.finished() == []
            assert work.disk.memory("r-1", "a") == {}
            assert (work.count("abandoned"), work.count("failed")) == (1, 1)


async def test_workbench_waits_for_the_training_thread_of_a_cancelled_job(
    plug_in: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plug_in("started.set(); go.wait(20)")
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path / "state") as work,
    ):
        assignment = plugged(coordinator, "r-1/1/1/train/w")
        module = sys.modules["edge_plug_in"]
        work.workbench.offer(assignment)
        work.workbench.offer(unknown_version("b/1/1/train/w"))
        await soon(coordinator.downloads)
        assert await asyncio.to_thread(module.started.wait, 20)

        work.workbench.cancel(assignment.assignment_id)

        assert assignment.assignment_id in work.workbench.held
        module.go.set()
        failure = await work.sent_soon("failure")
        assert failure.assignment_id == "b/1/1/train/w"
        # Its task saw the thread end; it was not taken away from it.
        assert "assignment_abandoned" in caplog.messages
        assert work.count("abandoned") == 1


async def test_workbench_never_begins_a_job_that_was_cancelled_in_the_queue(
    tmp_path: Path,
) -> None:
    async with scripted_coordinator() as coordinator, working(coordinator, tmp_path) as work:
        work.workbench.offer(unknown_version("a/1/1/train/w"))
        work.workbench.cancel("a/1/1/train/w")
        work.workbench.offer(unknown_version("b/1/1/train/w"))

        assert (await work.sent_soon("failure")).assignment_id == "b/1/1/train/w"
        assert coordinator.downloads.qsize() == 1


# Uploads


async def test_workbench_sends_a_cut_upload_again_from_where_it_was_cut(tmp_path: Path) -> None:
    received = bytearray()
    starts: list[int] = []

    async def cut_after_each_chunk(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        starts.append(len(received))
        yield ready(len(received))
        request = await requests.__anext__()
        assert request.chunk.offset_bytes == len(received)
        received.extend(request.chunk.data)
        if len(received) < header.payload_bytes:
            raise TransferInvalid("the upload ended")
        yield receipt(header)

    keep_update(tmp_path, values=(STUCK + 3) * CHUNK_BYTES // 4)
    [update] = Disk(tmp_path).finished()
    payload = update.read(0, update.header.payload_bytes)
    async with scripted_coordinator() as coordinator:
        coordinator.upload = cut_after_each_chunk
        async with working(coordinator, tmp_path) as work:
            # The next one begins when this one has ended.
            work.workbench.offer(unknown_version("b/1/1/train/w"))
            await work.sent_soon("failure")

            assert bytes(received) == payload
            assert len(starts) > STUCK  # each of them had moved on
            assert work.count("delivered") == 1
            assert work.disk.memory("r-1", "a")["c"].tolist() == [1.0, 1.0]
            assert work.disk.finished() == []


async def test_workbench_waits_longer_only_while_a_transfer_does_not_move(tmp_path: Path) -> None:
    offsets = iter([0, 0, 4, 4, 4, 8])
    waits: list[int] = []

    def backoff() -> Iterator[float]:
        for number in itertools.count():
            waits.append(number)
            yield 0.0

    async def cut(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        offset_bytes = next(offsets, None)
        if offset_bytes is None:
            yield receipt(header)
            return
        yield ready(offset_bytes)
        async for _ in requests:  # a status that overtakes the chunks may get lost in grpc
            pass
        raise Unavailable("cut")

    keep_update(tmp_path)
    async with scripted_coordinator() as coordinator:
        coordinator.upload = cut
        async with working(coordinator, tmp_path, backoff) as work:
            work.workbench.offer(unknown_version("b/1/1/train/w"))
            await work.sent_soon("failure")

            assert work.count("delivered") == 1
            assert waits[:6] == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("refusal", "attempts"),
    [
        (TransferInvalid("too many chunks"), STUCK + 1),
        (ChecksumMismatch("not its digest"), STUCK + 1),
        (FedFleetError("internal error"), STUCK + 1),
        (UpdateNotFinite("NaN in section 0"), 1),
    ],
)
async def test_workbench_reports_the_final_refusal_of_a_finished_update(
    refusal: FedFleetError, attempts: int, tmp_path: Path
) -> None:
    async def refuse(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(0)
        async for _ in requests:  # a status that overtakes the chunks may get lost in grpc
            pass
        raise refusal

    assignment_id = keep_update(tmp_path).assignment_id
    async with scripted_coordinator() as coordinator:
        coordinator.upload = refuse
        async with working(coordinator, tmp_path) as work:
            failure = await work.sent_soon("failure")
            work.workbench.offer(unknown_version("b/1/1/train/w"))
            await work.sent_soon("failure")

            assert failure.assignment_id == assignment_id
            assert (failure.code, failure.message) == (refusal.code, refusal.message)
            assert coordinator.uploads.qsize() == attempts
            assert work.disk.finished() == []
            assert (work.count("failed"), work.count("abandoned")) == (2, 0)


async def test_workbench_drops_the_update_of_a_closed_round_in_silence(tmp_path: Path) -> None:
    async def closed(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        raise AssignmentClosed("the round has closed")
        yield

    keep_update(tmp_path)
    async with scripted_coordinator() as coordinator:
        coordinator.upload = closed
        async with working(coordinator, tmp_path) as work:
            work.workbench.offer(unknown_version("b/1/1/train/w"))

            assert (await work.sent_soon("failure")).assignment_id == "b/1/1/train/w"
            assert coordinator.uploads.qsize() == 1
            assert work.disk.finished() == []
            assert work.count("abandoned") == 1


async def test_workbench_reports_an_update_that_its_disk_lost(tmp_path: Path) -> None:
    async def take(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(0)
        async for _ in requests:
            pass
        raise TransferInvalid("the upload ended")

    assignment_id = keep_update(tmp_path).assignment_id
    async with scripted_coordinator() as coordinator:
        coordinator.upload = take
        async with working(coordinator, tmp_path) as work:
            [payload] = (tmp_path / "updates").glob("*/payload")
            payload.write_bytes(payload.read_bytes()[:-1])  # before the first task has run

            failure = await work.sent_soon("failure")

            assert failure.assignment_id == assignment_id
            assert failure.code == "TRANSFER_INVALID"
            assert "cannot be read from this device" in failure.message
            assert str(tmp_path) not in failure.message


# A disk that refuses


async def test_workbench_rests_before_it_says_that_its_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be asked again at once."""
    order: list[str] = []
    keep_version = Disk.keep_version
    full = [True]

    def keep(self: Disk, digest: str, data: bytes) -> None:
        if full:
            raise StoreFull("no room")
        keep_version(self, digest, data)

    monkeypatch.setattr(Disk, "keep_version", keep)
    monkeypatch.setattr(Disk, "has_room", lambda self: not full)
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path, on_refusal=lambda: order.append("told")) as work,
    ):
        coordinator.upload = take
        work.workbench.offer(narrow(coordinator, "r-1/1/1/train/w"))
        failure = await work.sent_soon("failure")
        assert (failure.code, order, work.room.reason) == (
            "STORE_FULL",
            ["told"],
            "its disk is full",
        )
        # One that was given meanwhile waits, to its deadline at most.
        late = narrow(coordinator, "r-1/1/2/train/w")
        late.deadline_s = 0.2
        work.workbench.offer(late)
        assert (await work.sent_soon("failure")).code == "STORE_FULL"
        full.clear()
        work.workbench.offer(narrow(coordinator, "r-1/1/3/train/w"))

        assert await soon(coordinator.uploads) == "r-1/1/3/train/w"
        assert order == ["told", "told"]


async def test_workbench_installs_a_memory_that_its_disk_refused_before_the_next_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered, refusals = Disk.delivered, iter(range(2))

    def refuse_twice(self: Disk, update: Finished) -> None:
        if next(refusals, None) is not None:
            raise StoreFull("no room")
        delivered(self, update)

    monkeypatch.setattr(Disk, "delivered", refuse_twice)
    keep_update(tmp_path)
    async with (
        scripted_coordinator() as coordinator,
        working(coordinator, tmp_path) as work,
    ):
        coordinator.upload = take
        await soon(coordinator.uploads)
        work.workbench.offer(unknown_version("b/1/1/train/w"))
        assert (await work.sent_soon("failure")).code == "STORE_FULL"
        assert work.disk.memory("r-1", "a") == {}
        assert len(work.disk.finished()) == 1  # for the next start, should this be the end
        work.workbench.offer(unknown_version("c/1/1/train/w"))
        assert (await work.sent_soon("failure")).code == "NOT_FOUND"

        assert work.disk.memory("r-1", "a")["c"].tolist() == [1.0, 1.0]
        assert work.disk.finished() == []
        assert work.count("delivered") == 1


async def test_workbench_keeps_an_update_while_its_certificate_is_refused(tmp_path: Path) -> None:
    refusals = iter(range(STUCK + 2))

    async def refuse(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        if next(refusals, None) is not None:
            raise Unauthenticated("the certificate has ended")
        yield receipt(header)

    keep_update(tmp_path)
    async with scripted_coordinator() as coordinator:
        coordinator.upload = refuse
        async with working(coordinator, tmp_path) as work:
            await asyncio.wait_for(work.workbench.idle.wait(), PATIENCE_S)

            assert work.count("delivered") == 1
            assert work.disk.memory("r-1", "a")["c"].tolist() == [1.0, 1.0]
