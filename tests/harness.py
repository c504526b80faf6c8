"""Real parts for integration tests: a coordinator in this process, services in others."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from fedfleet.errors import FedFleetError
from fedfleet.identity.authority import OPERATOR_FOLDER
from fedfleet.identity.credentials import Credentials, load_credentials
from fedfleet.identity.names import Role
from fedfleet.models.card import ModelCard
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.enrolment import enrol
from fedfleet.rpc.status import error_of
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.training.seeding import derive
from fedfleet.types import Array, Kind, ModelState, Section, Update, UpdateHeader
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet.v1.enrollment_service_pb2_grpc import EnrollmentServiceStub
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.chunks import chunks
from fedfleet.wire.level_statistics import read_level_statistics
from fedfleet.wire.updates import EncodedUpdate, encode_update
from fedfleet.wire.weights import decode_state
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.service import Coordinator

ROOT = Path(__file__).parent.parent
PATIENCE_S = 60.0

TINY = """
name = "tiny"
seed = 7
[model]
architecture = "mlp"
hidden = []
[data]
dataset = "synthetic"
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
{more}
"""

DIGITS = """
name = "{name}"
seed = {seed}
[model]
architecture = "mlp"
hidden = {hidden}
[data]
dataset = "digits"
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
{more}
"""


def tiny_recipe(*, workers: int = 2, rounds: int = 1, cohort: int = 2, more: str = "") -> str:
    """Ten parameters; ``more`` continues the table [rounds]."""
    return TINY.format(workers=workers, rounds=rounds, cohort=cohort, more=more)


def digits_recipe(
    name: str,
    *,
    seed: int = 6,
    hidden: Sequence[int] = (40,),
    workers: int = 2,
    rounds: int = 1,
    cohort: int = 2,
    more: str = "",
) -> str:
    """A first matrix that is large enough to be sparsified; ``more`` continues [rounds]."""
    return DIGITS.format(
        name=name,
        seed=seed,
        hidden=list(hidden),
        workers=workers,
        rounds=rounds,
        cohort=cohort,
        more=more,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A coordinator in this process and a channel to it.

    Args:
        credentials: by which the channel was opened; None without TLS.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        store: Store,
        channel: grpc.aio.Channel,
        credentials: Credentials | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.store = store
        self.credentials = credentials
        self.address = f"127.0.0.1:{coordinator.port}"
        self.enrol_address = f"127.0.0.1:{coordinator.enroll_port}"
        self.control: Any = ControlServiceStub(channel)
        self.federation: Any = FederationServiceStub(channel)
        self.enrolment: Any = EnrollmentServiceStub(channel)

    @asynccontextmanager
    async def seen_by(self, credentials: Credentials | None) -> AsyncIterator[Running]:
        """The same coordinator through somebody else's connection."""
        async with open_channel(
            self.address, own_connection=True, credentials=credentials
        ) as channel:
            yield Running(self.coordinator, self.store, channel, credentials)

    async def token(self, name: str, role: Role = Role.WORKER, valid_s: float = 0.0) -> str:
        """A token to enrol with."""
        request = control_pb.CreateTokenRequest(
            worker_id=name, role=f"ROLE_{role.name}", valid_s=valid_s
        )
        return str((await self.control.CreateToken(request, timeout=PATIENCE_S)).token)

    async def enrolled(self, name: str, role: Role = Role.WORKER) -> Credentials:
        """Credentials as a device comes by them."""
        return await enrol(self.enrol_address, await self.token(name, role), name)

    async def submit(self, recipe: str) -> str:
        request = control_pb.SubmitRunRequest(recipe=recipe)
        response = await self.control.SubmitRun(request, timeout=PATIENCE_S)
        return str(response.run.run_id)

    async def show(self, run_id: str) -> control_pb.GetRunResponse:
        request = control_pb.GetRunRequest(run_id=run_id)
        response: control_pb.GetRunResponse = await self.control.GetRun(request, timeout=PATIENCE_S)
        return response

    async def until(self, run_id: str, kind: str, round: int | None = None) -> control_pb.RunEvent:
        """The first event of a kind (in a round), or an error when the run ended without one."""
        request = control_pb.WatchRunRequest(run_id=run_id)
        async for response in self.control.WatchRun(request, timeout=PATIENCE_S):
            if response.event.kind == kind and round in (None, response.event.round):
                event: control_pb.RunEvent = response.event
                return event
        raise AssertionError(f"run {run_id} ended without {kind}: {await self.show(run_id)}")

    async def connected(self, count: int) -> None:
        """Wait for so many workers."""
        there = asyncio.Event()

        def look() -> None:
            if len(self.coordinator.fleet.connected) >= count:
                there.set()

        forget = self.coordinator.fleet.listen(look)
        try:
            look()
            await asyncio.wait_for(there.wait(), PATIENCE_S)
        finally:
            forget()

    async def finished(self, run_id: str) -> control_pb.Run:
        await self.until(run_id, "run_finished")
        return (await self.show(run_id)).run


@asynccontextmanager
async def running_coordinator(
    folder: Path, store_url: str | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """A coordinator on free loopback ports, seen by its local operator where it has TLS.

    Args:
        folder: of its store, unless another one is named, and of its certificate authority.
        settings: of ``CoordinatorConfig``; ``tls="on"`` for certificates.
    """
    settings = {"port": 0, "ops_port": 0, "enroll_port": 0, "grace_s": 1.0, **settings}
    config = CoordinatorConfig(
        store=store_url or f"sqlite:{folder}",
        ca_dir=settings.pop("ca_dir", folder / "ca"),
        **settings,
    )
    with open_store(config.store) as store:
        coordinator = Coordinator(config, store)
        try:
            await coordinator.start()
            operator = local_operator(config) if config.uses_tls else None
            async with open_channel(
                f"127.0.0.1:{coordinator.port}", own_connection=True, credentials=operator
            ) as channel:
                yield Running(coordinator, store, channel, operator)
        finally:
            await coordinator.close()


def local_operator(config: CoordinatorConfig) -> Credentials | None:
    """What a coordinator with an authority of its own leaves for its own account."""
    assert config.ca_dir is not None
    return None if config.server_key else load_credentials(config.ca_dir / OPERATOR_FOLDER)


async def watch_until(address: str, run_id: str, kind: str, round: int) -> None:
    """Wait for an event; a connection to a process that was killed is dialled again."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            async with open_channel(address) as channel:
                await _watch(ControlServiceStub(channel), run_id, kind, round)
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline_s:
                raise


async def _watch(control: Any, run_id: str, kind: str, round: int) -> None:
    request = control_pb.WatchRunRequest(run_id=run_id)
    async for response in control.WatchRun(request, timeout=PATIENCE_S, wait_for_ready=True):
        if (response.event.kind, response.event.round) == (kind, round):
            return
    raise AssertionError(f"the run ended without {kind} in round {round}")


class ScriptedWorker:
    """A worker whose every message the test writes; it speaks the real protocol."""

    def __init__(self, running: Running, worker_id: str) -> None:
        self.worker_id = worker_id
        self._stub = running.federation
        self._call: Any = None

    async def connect(
        self, held: tuple[str, ...] = (), tags: tuple[str, ...] = (), **more: Any
    ) -> pb.Welcome:
        self._call = self._stub.Connect()
        hello = pb.Hello(worker_id=self.worker_id, held_assignment_ids=held, tags=tags, **more)
        await self._call.write(pb.ConnectRequest(hello=hello))
        response = await self.read()
        assert response is not None
        return response.welcome

    async def read(self) -> pb.ConnectResponse | None:
        """The next message, or None when the coordinator ended the stream well."""
        try:
            response = await asyncio.wait_for(self._call.read(), PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        return response if isinstance(response, pb.ConnectResponse) else None

    async def assignment(self) -> pb.Assignment:
        while True:
            response = await self.read()
            assert response is not None, "the stream ended"
            if response.WhichOneof("message") == "assignment":
                return response.assignment

    async def cancelled(self) -> pb.CancelAssignment:
        while True:
            response = await self.read()
            assert response is not None, "the stream ended"
            if response.WhichOneof("message") == "cancel":
                return response.cancel

    async def send(self, **message: Any) -> None:
        await self._call.write(pb.ConnectRequest(**message))

    def leave(self) -> None:
        self._call.cancel()

    async def download(self, assignment: pb.Assignment) -> bytes:
        data = b""
        request = pb.DownloadRequest(digest=assignment.base_digest)
        async for response in self._stub.Download(request, timeout=PATIENCE_S):
            data += response.chunk.data
        assert hashlib.sha256(data).hexdigest() == assignment.base_digest
        return data

    async def upload(self, encoded: EncodedUpdate) -> pb.Receipt:
        """Deliver an update; raises the error that the coordinator answers with."""
        return await self.upload_raw(encoded.header, self._pieces(encoded))

    def _pieces(self, encoded: EncodedUpdate) -> list[Any]:
        payload = encoded.payload
        return list(chunks(lambda at, n: payload[at : at + n], len(payload)))

    async def upload_raw(self, header: pb.UpdateHeader, pieces: list[Any]) -> pb.Receipt:
        """Send a header and these chunks from the offset that is asked for."""
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[pb.UploadRequest]:
            yield pb.UploadRequest(header=header)
            start = await ready
            for piece in pieces:
                if piece.offset_bytes >= start:
                    yield pb.UploadRequest(chunk=piece)

        try:
            async for response in self._stub.Upload(requests(), timeout=PATIENCE_S):
                if response.WhichOneof("message") == "receipt":
                    receipt: pb.Receipt = response.receipt
                    return receipt
                ready.set_result(response.ready.offset_bytes)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        finally:
            ready.cancel()
        raise AssertionError("the upload ended without a receipt")


def update_for(
    assignment: pb.Assignment,
    worker_id: str,
    state: ModelState,
    delta: float | Array,
    weight: float = 10.0,
) -> EncodedUpdate:
    """An update whose every trainable element changed by ``delta``, or by its own part of it."""
    header = UpdateHeader(
        run_id=assignment.run_id,
        round=assignment.round,
        assignment_id=assignment.assignment_id,
        worker_id=worker_id,
        base_digest=assignment.base_digest,
        schema_digest=assignment.schema_digest,
        weight=weight,
        steps=1,
        lr_sum=0.1,
        metrics={"train_loss": 1.0},
    )
    trainable = np.full(state.trainable.shape, delta, np.float32)
    return encode_update(
        Update(
            header,
            (
                Section("trainable", Kind.TRAINABLE, trainable),
                Section("statistic", Kind.STATISTIC, state.statistics),
                Section("counter", Kind.COUNTER, state.counters),
            ),
        )
    )


def initial_of(recipe_text: str) -> ModelState:
    """The initial state that the coordinator makes of a recipe."""
    from fedfleet.data.catalog import describe
    from fedfleet.rounds.recipe import parse_recipe
    from fedfleet.training.state import initial_state

    recipe = parse_recipe(recipe_text)
    spec = describe(recipe.data)
    card = ModelCard(model=recipe.model, inputs=spec.inputs, classes=spec.classes)
    return initial_state(card, derive(recipe.seed, "initial"))


def state_of_version(store: Store, model: str, number: int | None = None) -> ModelState:
    """A committed version's state; the newest by default."""
    versions = store.registry.versions(model)
    version = versions[0] if number is None else store.registry.version(model, number)
    return decode_state(version.schema, store.blobs.read(version.digest))


def levels_of_version(store: Store, model: str) -> dict[str, bytes]:
    """The statistics of the narrower levels that come with the newest version, bit for bit."""
    version = store.registry.versions(model)[0]
    found = read_level_statistics(store.blobs.read(version.digest))
    return {level: vector.tobytes() for level, vector in found.items()}


@contextmanager
def process(log: Path, *argv: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process; killed at the end if it still runs. Its output goes to ``log``."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FEDFLEET_")}
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, *argv], env={**env, **environ}, stdout=out, stderr=out
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()


@contextmanager
def fleet(
    coordinator: str, count: int, folder: Path, data_dir: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with ``count`` real workers."""
    script = str(ROOT / "tests" / "fleet_process.py")
    log = folder / "fleet.log"
    args = (script, coordinator, str(count), str(folder / "workers"), str(data_dir or "-"))
    with process(log, *args) as child:
        try:
            yield child
        except BaseException:
            sys.stderr.write(log.read_text()[-4000:])
            raise
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0, log.read_text()[-4000:]


async def raises_code(code: str, awaitable: Any) -> FedFleetError:
    """Await something that must fail with this stable code."""
    try:
        await awaitable
    except grpc.aio.AioRpcError as error:
        known = error_of(error)
    except FedFleetError as error:
        known = error
    else:
        raise AssertionError(f"expected {code}, got no error")
    assert known.code == code, f"{known.code}: {known.message}"
    return known
