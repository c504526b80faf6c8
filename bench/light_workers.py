"""Workers that speak the real protocol and make their updates up, many to a process.

Each has a connection of its own: a stream with heartbeats, downloads, uploads. Arguments:
coordinator address, elements of the model, folder of the coordinator's authority (empty without
TLS), number of the first worker, how many. What they saw is printed after SIGTERM.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np

from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, certificate_request, new_key
from fedfleet.identity.names import Role
from fedfleet.rpc.channel import open_channel
from fedfleet.types import Kind, Section, Update, UpdateHeader
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.chunks import chunks
from fedfleet.wire.updates import EncodedUpdate, encode_update

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

PATIENCE_S = 600.0
LIFE_S = 86400.0


@dataclass
class Told:
    """What the workers of a process saw.

    Args:
        late: heartbeats that left more than an interval after their time.
        ended: streams that the coordinator or the network ended.
        receipts_s: from the begin of each upload to its receipt.
    """

    heartbeats: int = 0
    late: int = 0
    ended: int = 0
    refused: int = 0
    receipts_s: list[float] = field(default_factory=list)


class LightWorker:
    """One worker: a connection, a stream, heartbeats; made-up updates."""

    def __init__(
        self, address: str, number: int, elements: int, told: Told, authority: Authority | None
    ) -> None:
        self._name = f"worker-{number:04}"
        self._credentials = issue(authority, self._name) if authority else None
        self._address = address
        self._random = np.random.default_rng(number)
        self._elements = elements
        self._told = told

    async def work(self) -> None:
        """Work until cancelled."""
        async with open_channel(
            self._address, own_connection=True, credentials=self._credentials
        ) as channel:
            stub = FederationServiceStub(channel)
            call = stub.Connect()
            await call.write(pb.ConnectRequest(hello=pb.Hello(worker_id=self._name)))
            response = await call.read()
            assert isinstance(response, pb.ConnectResponse)
            beats = asyncio.create_task(self._beat(call, response.welcome.heartbeat_interval_s))
            try:
                await self._carry_out(call, stub)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                self._told.ended += 1
            finally:
                beats.cancel()
                await asyncio.gather(beats, return_exceptions=True)

    async def _beat(
        self, call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse], every_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + every_s * float(self._random.random())
        while True:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await call.write(pb.ConnectRequest(heartbeat=pb.Heartbeat(sent_at_s=time.time())))
            self._told.heartbeats += 1
            self._told.late += loop.time() - due_s > every_s
            due_s += every_s

    async def _carry_out(
        self,
        call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse],
        stub: FederationServiceAsyncStub,
    ) -> None:
        while isinstance(response := await call.read(), pb.ConnectResponse):
            if response.WhichOneof("message") == "assignment":
                try:
                    await self._exchange(stub, response.assignment)
                except grpc.aio.AioRpcError:
                    self._told.refused += 1
        self._told.ended += 1

    async def _exchange(self, stub: FederationServiceAsyncStub, assignment: pb.Assignment) -> None:
        """Fetch what an assignment starts from, send an update of the same size."""
        request = pb.DownloadRequest(digest=assignment.base_digest, worker_id=self._name)
        hasher = hashlib.sha256()
        async for response in stub.Download(request, timeout=PATIENCE_S):
            hasher.update(response.chunk.data)
        assert hasher.hexdigest() == assignment.base_digest
        update = self._made_up(assignment)
        began_s = time.monotonic()
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def requests() -> AsyncIterator[pb.UploadRequest]:
            yield pb.UploadRequest(header=update.header)
            payload = update.payload
            for chunk in chunks(lambda at, n: payload[at : at + n], len(payload), await ready):
                yield pb.UploadRequest(chunk=chunk)

        async for answer in stub.Upload(requests(), timeout=PATIENCE_S):
            if answer.WhichOneof("message") == "ready":
                ready.set_result(answer.ready.offset_bytes)
            else:
                self._told.receipts_s.append(time.monotonic() - began_s)

    def _made_up(self, assignment: pb.Assignment) -> EncodedUpdate:
        header = UpdateHeader(
            run_id=assignment.run_id,
            round=assignment.round,
            assignment_id=assignment.assignment_id,
            worker_id=self._name,
            base_digest=assignment.base_digest,
            schema_digest=assignment.schema_digest,
            weight=10.0,
            steps=1,
            lr_sum=0.1,
            metrics={"train_loss": 1.0},
        )
        delta = 1e-3 * self._random.standard_normal(self._elements, np.float32)
        sections = (
            Section("trainable", Kind.TRAINABLE, delta),
            Section("statistic", Kind.STATISTIC, np.empty(0, np.float32)),
            Section("counter", Kind.COUNTER, np.empty(0, np.int64)),
        )
        return encode_update(Update(header, sections))


def issue(authority: Authority, name: str) -> Credentials:
    """What a worker would have enrolled for."""
    key = new_key()
    issued = authority.issue(certificate_request(key), Role.WORKER, name, time.time(), LIFE_S)
    return Credentials(key, issued.chain, authority.root)


async def work(address: str, first: int, count: int, elements: int, folder: Path | None) -> Told:
    """Be so many workers until SIGTERM."""
    authority = Authority.open(folder) if folder else None
    told, stop = Told(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workers = [LightWorker(address, first + i, elements, told, authority) for i in range(count)]
    tasks = [asyncio.create_task(worker.work()) for worker in workers]
    await stop.wait()
    seen = Told(**asdict(told))  # what ends from here on was asked to
    for task in tasks:
        task.cancel()
    for ending in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ending, Exception):
            raise ending
    return seen


if __name__ == "__main__":
    address, elements, ca, first, count = sys.argv[1:]
    folder = Path(ca) if ca else None
    told = asyncio.run(work(address, int(first), int(count), int(elements), folder))
    sys.stdout.write(json.dumps(asdict(told)) + "\n")
