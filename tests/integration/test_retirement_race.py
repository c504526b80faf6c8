"""Bytes of an old version that is retired while the very same bytes become another version's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from contract.store.places import PLACES, REDIS, Place
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    free_port,
    initial_of,
    process,
    raises_code,
    running_coordinator,
    tiny_recipe,
    update_for,
)

from fedfleet.errors import Conflict, StoreUnavailable
from fedfleet.rpc.channel import open_channel
from fedfleet.store.protocols import RunRecord, RunState, Store, VersionRecord
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.offers import Offer
from fedfleet_coordinator.holds import Holds
from fedfleet_coordinator.importing import Importing

RECIPE = tiny_recipe(workers=1, cohort=1)
MOMENTUM = '[algorithm]\nname = "fedavgm"\n'
CHILD = Path(__file__).parent / "doomed_coordinator.py"


class Gate:
    """Where a call waits until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def pass_through(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE_S), "nobody opened the gate"

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], Gate]]:
    """Puts gates before methods of real parts; a test that fails leaves none closed."""
    gates: list[Gate] = []

    def put_gate(part: Any, name: str) -> Gate:
        gate, real = Gate(), getattr(part, name)
        gates.append(gate)

        def waiting(*args: Any, **more: Any) -> Any:
            gate.pass_through()
            return real(*args, **more)

        monkeypatch.setattr(part, name, waiting)
        return gate

    yield put_gate
    for gate in gates:
        gate.open()


@pytest.fixture(scope="module", autouse=True)
def shared_servers() -> Iterator[None]:
    yield
    REDIS.end()


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


@pytest_asyncio.fixture
async def running(place: Place, tmp_path: Path) -> AsyncIterator[Running]:
    async with running_coordinator(tmp_path / "own", place.url) as one:
        yield one


@pytest_asyncio.fixture
async def worker(running: Running) -> AsyncIterator[ScriptedWorker]:
    one = ScriptedWorker(running, "worker-0")
    await one.connect()
    yield one
    one.leave()


async def begin(running: Any, worker: ScriptedWorker, delta: float, recipe: str = RECIPE) -> str:
    """A run of one round, its one update delivered: what follows is the coordinator's."""
    request = pb.SubmitRunRequest(recipe=recipe)
    run_id = (await running.control.SubmitRun(request, timeout=PATIENCE_S)).run.run_id
    assignment = await worker.assignment()
    assert assignment.run_id == run_id
    await worker.upload(update_for(assignment, worker.worker_id, initial_of(RECIPE), delta))
    return str(run_id)


async def publish(running: Running, worker: ScriptedWorker, delta: float) -> VersionRecord:
    """A version whose bytes the delta alone decides about."""
    assert (await running.finished(await begin(running, worker, delta))).code == ""
    return running.store.registry.versions("tiny", limit=1)[0]


async def retire(running: Running, keep: int = 1) -> list[int]:
    request = pb.RetireVersionsRequest(model="tiny", keep=keep)
    response = await running.control.RetireVersions(request, timeout=PATIENCE_S)
    return list(response.versions)


def kept(store: Store) -> list[int]:
    """Versions that are not retired; each has its bytes."""
    found = [v for v in store.registry.versions("tiny") if v.retired_at_s is None]
    for version in found:
        assert hashlib.sha256(store.blobs.read(version.digest)).hexdigest() == version.digest
    return [version.number for version in found]


# A run


async def test_retirement_after_a_run_has_stored_the_same_bytes_leaves_them(
    running: Running, worker: ScriptedWorker, gated: Callable[[Any, str], Gate]
) -> None:
    old = await publish(running, worker, 1.0)
    await publish(running, worker, 2.0)
    commit = gated(running.store, "commit_round")

    run_id = await begin(running, worker, 1.0)
    await commit.reached()
    would = pb.RetireVersionsRequest(model="tiny", keep=1, dry_run=True)
    assert not (await running.control.RetireVersions(would, timeout=PATIENCE_S)).versions
    assert await retire(running) == []
    commit.open()

    assert (await running.finished(run_id)).code == ""
    assert kept(running.store) == [3, 2, 1]
    assert running.store.registry.version("tiny", 3).digest == old.digest
    # Nothing is held any more, and version 3 needs the bytes of version 1.
    assert await retire(running) == [1, 2]
    assert kept(running.store) == [3]


async def test_run_waits_for_a_retirement_and_stores_the_same_bytes_again(
    running: Running,
    worker: ScriptedWorker,
    gated: Callable[[Any, str], Gate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = await publish(running, worker, 1.0)
    await publish(running, worker, 2.0)
    retirement = gated(running.store.registry, "retire")
    held = threading.Event()
    settle = Holds.settle

    def settling(self: Holds, digests: Collection[str]) -> None:
        if old.digest in digests:
            held.set()
        settle(self, digests)

    monkeypatch.setattr(Holds, "settle", settling)
    retiring = asyncio.create_task(retire(running))
    await retirement.reached()
    run_id = await begin(running, worker, 1.0)
    # The run is about to store bytes that are there, and are to be deleted at any moment.
    assert await asyncio.to_thread(held.wait, PATIENCE_S)
    assert running.store.blobs.size(old.digest) is not None
    retirement.open()

    assert await retiring == [1]
    assert (await running.finished(run_id)).code == ""
    assert kept(running.store) == [3, 2]
    assert running.store.registry.version("tiny", 3).digest == old.digest


async def test_bytes_that_a_run_lives_on_are_not_retired_with_an_old_version(
    running: Running, worker: ScriptedWorker
) -> None:
    """Its initial state happens to be a version: of a run that has learnt nothing."""
    old = await publish(running, worker, 0.0)
    await publish(running, worker, 2.0)

    run_id = await running.submit(RECIPE)
    assignment = await worker.assignment()
    assert assignment.base_digest == old.digest
    assert await retire(running) == []
    assert hashlib.sha256(await worker.download(assignment)).hexdigest() == old.digest
    await worker.upload(update_for(assignment, worker.worker_id, initial_of(RECIPE), 3.0))

    assert (await running.finished(run_id)).code == ""
    assert await retire(running) == [1, 2]


async def test_run_whose_end_was_in_doubt_holds_nothing_any_more(
    running: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's answer was lost: another pass finds that the run has ended, and cleans up."""
    journal, lost = running.store.journal, list[str]()
    real = journal.set_run_state

    def answer_lost(run_id: str, state: RunState, *rest: Any, **more: Any) -> RunRecord:
        run = real(run_id, state, *rest, **more)
        if state.final and not lost:
            lost.append(run_id)
            raise StoreUnavailable("the answer was lost")
        return run

    monkeypatch.setattr(journal, "set_run_state", answer_lost)
    run_id = await begin(running, worker, 1.0, RECIPE + MOMENTUM)
    assert (await running.finished(run_id)).code == ""
    memory = journal.memory_digest(run_id)
    until_s = time.monotonic() + PATIENCE_S
    while running.store.blobs.size(memory) is not None:
        assert time.monotonic() < until_s, "nobody let go of the run's memory"
        await asyncio.sleep(0.05)

    assert lost == [run_id]
    assert memory
    assert kept(running.store) == [1]


# An import


def header_of(version: VersionRecord) -> pb.ImportHeader:
    return pb.ImportHeader(
        model="bought",
        digest=version.digest,
        size_bytes=version.size_bytes,
        schema_json=json.dumps(version.schema.to_json()),
        card_json=json.dumps(dict(version.card)),
    )


def requests_of(store: Store, version: VersionRecord) -> Iterator[pb.ImportVersionRequest]:
    yield pb.ImportVersionRequest(header=header_of(version))
    yield pb.ImportVersionRequest(chunk=store.blobs.read(version.digest))


async def test_retirement_while_the_same_bytes_are_imported_leaves_them(
    running: Running, worker: ScriptedWorker, gated: Callable[[Any, str], Gate]
) -> None:
    old = await publish(running, worker, 1.0)
    await publish(running, worker, 2.0)
    add = gated(running.store.registry, "add")

    call = running.control.ImportVersion(requests_of(running.store, old), timeout=PATIENCE_S)
    await add.reached()
    assert await retire(running) == []
    add.open()

    assert (await call).version.digest == old.digest
    assert await retire(running) == [1]
    data = running.store.blobs.read(running.store.registry.version("bought", 1).digest)
    assert hashlib.sha256(data).hexdigest() == old.digest


async def test_import_that_fails_leaves_what_a_run_has_stored_meanwhile(
    running: Running,
    worker: ScriptedWorker,
    gated: Callable[[Any, str], Gate],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = await publish(running, worker, 1.0)
    await publish(running, worker, 2.0)
    requests = list(requests_of(running.store, old))
    assert await retire(running) == [1]
    assert running.store.blobs.size(old.digest) is None
    refusal, commit = Gate(), gated(running.store, "commit_round")

    def refusing(importing: Importing, offer: Offer) -> VersionRecord:
        refusal.pass_through()
        raise Conflict("somebody else has the number")

    monkeypatch.setattr(Importing, "_add", refusing)
    call = running.control.ImportVersion(iter(requests), timeout=PATIENCE_S)
    await refusal.reached()
    run_id = await begin(running, worker, 1.0)
    await commit.reached()
    refusal.open()
    await raises_code("CONFLICT", call)
    assert running.store.blobs.size(old.digest) is not None
    commit.open()

    assert (await running.finished(run_id)).code == ""
    assert kept(running.store) == [3, 2]


async def test_import_that_fails_alone_leaves_nothing(
    running: Running, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await publish(running, worker, 1.0)
    await publish(running, worker, 2.0)
    requests = list(requests_of(running.store, old))
    assert await retire(running) == [1]

    def refusing(importing: Importing, offer: Offer) -> VersionRecord:
        assert running.store.blobs.size(old.digest) is not None
        raise Conflict("somebody else has the number")

    monkeypatch.setattr(Importing, "_add", refusing)
    call = running.control.ImportVersion(iter(requests), timeout=PATIENCE_S)
    await raises_code("CONFLICT", call)

    assert running.store.blobs.size(old.digest) is None


# A kill


async def test_coordinator_killed_before_its_commit_stores_the_same_bytes_again(
    tmp_path: Path, place: Place
) -> None:
    """What it held died with it, and the old version's bytes were let go of before it was back."""
    async with running_coordinator(tmp_path / "own", place.url) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        old = await publish(running, worker, 1.0)
        await publish(running, worker, 2.0)
    address = f"127.0.0.1:{free_port()}"
    with process(tmp_path / "log", str(CHILD), place.url, address, str(tmp_path / "own")) as child:
        async with open_channel(address) as channel:
            there = SimpleNamespace(
                control=ControlServiceStub(channel), federation=FederationServiceStub(channel)
            )
            await channel.channel_ready()
            worker = ScriptedWorker(there, "worker-0")
            await worker.connect()
            run_id = await begin(there, worker, 1.0)
        assert await asyncio.to_thread(child.wait, PATIENCE_S) == -signal.SIGKILL
    with place.open() as store:
        assert store.journal.run(run_id).round == 0
        assert store.blobs.size(old.digest) is not None
        store.registry.retire("tiny", 1, 50.5)
        assert store.blobs.size(old.digest) is None

    async with running_coordinator(tmp_path / "own", place.url) as running:
        assert (await running.finished(run_id)).code == ""
        assert kept(running.store) == [3, 2]
        assert running.store.registry.version("tiny", 3).digest == old.digest
