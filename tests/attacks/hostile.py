"""A coordinator that worker processes trust, and that means them no good."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from attacks.siege import check_log
from certificates import issued
from harness import PATIENCE_S, free_port, initial_of, process, tiny_recipe
from prometheus_client.parser import text_string_to_metric_families
from scripted_coordinator import Scripted, ready, receipt, welcome

from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import save_credentials
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.gate import Gate
from fedfleet.rpc.server import RpcServer
from fedfleet.rpc.tls import server_credentials
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2_grpc as pb_grpc
from fedfleet.wire.chunks import chunks
from fedfleet.wire.weights import encode_state

WORKER = "pi-7"
RECIPE = tiny_recipe(workers=1, cohort=1)
GOOD = encode_state(initial_of(RECIPE))


def assignment_from(base: bytes, number: int) -> pb.Assignment:
    """To train, in everything right but for what it starts from."""
    return pb.Assignment(
        assignment_id=f"r-0/{number}/1/train/{WORKER}",
        run_id="r-0",
        round=number,
        kind=pb.ASSIGNMENT_KIND_TRAIN,
        base_digest=hashlib.sha256(base).hexdigest(),
        base_bytes=len(base),
        schema_digest=initial_of(RECIPE).schema.digest,
        level="a",
        recipe=RECIPE,
        deadline_s=PATIENCE_S,
    )


class Hostile(Scripted):
    """Pushes one message after the other; behind an assignment, once the worker has failed in it.

    Args:
        served: what is handed out, by digest, whatever its bytes are.

    Attributes:
        failures: what the worker said, in the order of the assignments.
        taken: the header of its first update.
    """

    def __init__(self, messages: Sequence[pb.ConnectResponse], served: Mapping[str, bytes]) -> None:
        super().__init__(talk=self._talk, upload=self._take, download=self._hand_out)
        self._messages = messages
        self._served = {hashlib.sha256(GOOD).hexdigest(): GOOD, **served}
        self.failures: list[pb.AssignmentFailure] = []
        self.taken: asyncio.Queue[pb.UpdateHeader] = asyncio.Queue()

    async def _talk(
        self, hello: pb.Hello, requests: AsyncIterator[pb.ConnectRequest]
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield welcome()
        for message in self._messages:
            yield message
            if not message.HasField("assignment"):
                continue
            async for request in requests:
                if request.WhichOneof("message") == "failure":
                    assert request.failure.assignment_id == message.assignment.assignment_id
                    self.failures.append(request.failure)
                    break
        last = assignment_from(GOOD, 1 + len(self._messages))
        yield pb.ConnectResponse(assignment=last)
        async for _ in requests:
            pass

    async def _hand_out(self, request: pb.DownloadRequest) -> AsyncIterator[pb.DownloadResponse]:
        data = self._served[request.digest]
        for chunk in chunks(lambda at, n: data[at : at + n], len(data), request.offset_bytes):
            yield pb.DownloadResponse(chunk=chunk, total_bytes=len(data))

    async def _take(
        self, header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(header.payload_bytes)
        self.taken.put_nowait(header)  # the worker hangs up on its receipt
        yield receipt(header)


@dataclass(frozen=True)
class After:
    """What is left of a worker that took the hostile messages, and then a good assignment.

    Args:
        header: of its update for that.
        peak_bytes: the most that it had in memory.
        label_values: every series of its metrics, by name and labels.
    """

    header: pb.UpdateHeader
    peak_bytes: int
    label_values: frozenset[tuple[str, ...]]


async def endured(folder: Path, hostile: Hostile) -> After:
    """Let a worker process with a certificate of its own take it all; looks at its log, too."""
    ca, log, state = folder / "ca", folder / "worker.log", folder / "worker"
    save_credentials(state / "identity", issued(ca, WORKER))
    ops_port = free_port()
    async with served_in_tls(hostile, ca) as address:
        settings = {
            "FEDFLEET_COORDINATOR": address,
            "FEDFLEET_STATE_DIR": str(state),
            "FEDFLEET_SHARD": "0",
            "FEDFLEET_THREADS": "1",
            "FEDFLEET_OPS_PORT": str(ops_port),
            "FEDFLEET_LOG_LEVEL": "debug",
        }
        with process(log, "-m", "fedfleet_worker", **settings) as worker:
            try:
                header = await asyncio.wait_for(hostile.taken.get(), PATIENCE_S)
            except asyncio.TimeoutError:
                raise AssertionError(f"{len(hostile.failures)}: {tail(log)}") from None
            peak = await asyncio.to_thread(peak_bytes, worker.pid)
            values = await asyncio.to_thread(label_values, ops_port)
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(worker.wait, PATIENCE_S) == 0
    check_log(log.read_text().splitlines(), [])
    return After(header, peak, values)


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text()[-4000:]


def peak_bytes(pid: int) -> int:
    """The most that a process has had in memory so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def label_values(ops_port: int) -> frozenset[tuple[str, ...]]:
    """Every series that a service tells of, by name and labels."""
    url = f"http://127.0.0.1:{ops_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    return frozenset(
        (sample.name, *map("=".join, sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


@asynccontextmanager
async def served_in_tls(servicer: Scripted, ca: Path) -> AsyncIterator[str]:
    """Serve workers of an authority; yields the address."""
    own = Authority.open(ca).server_credentials(time.time(), 3600.0)
    server = RpcServer(
        access=AccessInterceptor(Gate(), Door.MUTUAL),
        credentials=server_credentials(lambda: own, own.root),
    )
    pb_grpc.add_FederationServiceServicer_to_server(servicer, server.grpc)
    port = await server.start("127.0.0.1", 0, ("fedfleet.v1.FederationService",))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1.0)
