"""500 workers on a coordinator with two cores: heartbeats kept, rounds of 100 updates of 1 MB.

    python bench/load.py --workers 500 --rounds 3 --seconds 60

Targets: no session ends, no heartbeat is lost, every update gets its receipt and counts. The
workers speak the real protocol over a connection each (stream, heartbeats, download, upload) and do
not train: what they send is made up. They share the machine with the coordinator, so times are
those of both.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
from peaks import watched
from processes import await_port, free_port, process
from record import record

from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.channel import open_channel
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.types import Kind, Section, Update, UpdateHeader
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.chunks import chunks
from fedfleet.wire.updates import EncodedUpdate, encode_update

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

PROCESSES = 4
CORES = 2
PATIENCE_S = 600.0
HEARTBEAT_S = 5.0
# An age of a worker's last sign at which one heartbeat has been missed, and some slack.
MISSED_S = 2 * HEARTBEAT_S
LOOK_S = 1.0
PIN = f"""import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{CORES}])
os.execv(sys.executable, [sys.executable, "-m", "fedfleet_coordinator"])
"""
RECIPE = """
name = "load"
seed = 1
[model]
architecture = "mlp"
hidden = [256, 875]
[data]
dataset = "digits"
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
min_workers = {workers}
deadline_s = 600
[evaluation]
coordinator = false
"""


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

    def __init__(self, address: str, number: int, elements: int, told: Told) -> None:
        self._name = f"worker-{number:04}"
        self._address = address
        self._random = np.random.default_rng(number)
        self._elements = elements
        self._told = told

    async def work(self) -> None:
        """Work until cancelled."""
        async with open_channel(self._address, own_connection=True) as channel:
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


async def work(address: str, first: int, count: int, elements: int) -> Told:
    """Be so many workers until SIGTERM."""
    told, stop = Told(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workers = [LightWorker(address, first + i, elements, told) for i in range(count)]
    tasks = [asyncio.create_task(worker.work()) for worker in workers]
    await stop.wait()
    seen = Told(**asdict(told))  # what ends from here on was asked to
    for task in tasks:
        task.cancel()
    for ending in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ending, Exception):
            raise ending
    return seen


@dataclass(frozen=True)
class Watched:
    """What the coordinator's side showed.

    Args:
        oldest_s: the oldest last sign of a worker, over all looks.
        missed: looks at which a worker's last sign was older than two intervals.
        gone: most workers that were not connected at a look.
        rounds_s: seconds of each round.
        accepted: updates that the versions count.
    """

    oldest_s: float
    missed: int
    gone: int
    rounds_s: list[float]
    accepted: int


def oversee(control: ControlServiceStub, workers: int, recipe: str, seconds: float) -> Watched:
    """Wait for the workers, have the run done, look at every worker each second meanwhile."""
    until_s = time.monotonic() + PATIENCE_S
    while connected_of(control)[0] < workers:
        if time.monotonic() > until_s:
            raise SystemExit(f"{connected_of(control)[0]} of {workers} workers came")
        time.sleep(LOOK_S)
    began_s = time.monotonic()
    request = control_pb.SubmitRunRequest(recipe=recipe)
    run_id = control.SubmitRun(request, timeout=60).run.run_id
    ages, missed, gone = [0.0], 0, 0
    while True:
        time.sleep(LOOK_S)
        there, looks = connected_of(control)
        ages.append(max(looks, default=0.0))
        missed += sum(age > MISSED_S for age in looks)
        gone = max(gone, workers - there)
        shown = control.GetRun(control_pb.GetRunRequest(run_id=run_id), timeout=60)
        over = shown.run.state not in (control_pb.RUN_STATE_QUEUED, control_pb.RUN_STATE_RUNNING)
        if over and time.monotonic() - began_s >= seconds:
            break
        if time.monotonic() > until_s:
            raise SystemExit(f"the run has not ended after {PATIENCE_S:g} s")
    if shown.run.state != control_pb.RUN_STATE_COMPLETED:
        raise SystemExit(f"the run did not complete: {shown.run.code}: {shown.run.reason}")
    rounds_s = [round(one.duration_s, 2) for one in shown.rounds]
    return Watched(max(ages), missed, gone, rounds_s, sum(one.updates for one in shown.rounds))


def connected_of(control: ControlServiceStub) -> tuple[int, list[float]]:
    """How many workers are connected, and for how many seconds each gave no sign."""
    response = control.ListWorkers(control_pb.ListWorkersRequest(), timeout=60, wait_for_ready=True)
    now_s = time.time()
    ages = [now_s - one.last_seen_s for one in response.workers if one.connected]
    return len(ages), ages


def measure(workers: int, cohort: int, rounds: int, seconds: float) -> None:
    """Print what the load came to."""
    recipe = RECIPE.format(workers=workers, cohort=cohort, rounds=rounds)
    parsed = parse_recipe(recipe)
    elements = initial_state(card_of(parsed), derive(parsed.seed, "initial")).trainable.size
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = str(free_port())
        address = f"127.0.0.1:{port}"
        settings = {
            "FEDFLEET_PORT": port,
            "FEDFLEET_OPS_PORT": "0",
            "FEDFLEET_STORE": f"sqlite:{folder / 'store'}",
            "FEDFLEET_HEARTBEAT_S": str(HEARTBEAT_S),
        }
        command = (sys.executable, "-c", PIN)
        stack.enter_context(process(command, folder / "coordinator.log", **settings))
        peaks = stack.enter_context(watched({"fedfleet_coordinator": "coordinator"}))
        await_port(int(port), PATIENCE_S)
        channel = stack.enter_context(grpc.insecure_channel(address))
        fleet = start_fleet(address, workers, elements)
        try:
            seen = oversee(ControlServiceStub(channel), workers, recipe, seconds)
        finally:
            told = end_fleet(fleet)
        report(workers, cohort, rounds, seconds, seen, told, peaks.megabytes(), elements)


def start_fleet(address: str, workers: int, elements: int) -> list[subprocess.Popen[str]]:
    each = -(-workers // PROCESSES)
    counts = [(first, min(each, workers - first)) for first in range(0, workers, each)]
    own = [sys.executable, __file__, "--worker", address, str(elements)]
    return [
        subprocess.Popen([*own, str(first), str(count)], stdout=subprocess.PIPE, text=True)
        for first, count in counts
    ]


def end_fleet(fleet: list[subprocess.Popen[str]]) -> list[Told]:
    for one in fleet:
        one.send_signal(signal.SIGTERM)
    lines = [one.communicate(timeout=60)[0] for one in fleet]
    return [Told(**json.loads(line)) for line in lines if line]


def report(
    workers: int,
    cohort: int,
    rounds: int,
    seconds: float,
    seen: Watched,
    told: list[Told],
    peaks_mb: dict[str, float],
    elements: int,
) -> None:
    receipts_s = sorted(s for one in told for s in one.receipts_s)
    ended, refused = sum(one.ended for one in told), sum(one.refused for one in told)
    whole = len(receipts_s) == seen.accepted == cohort * rounds
    kept = not (ended or refused or seen.missed or seen.gone) and len(told) == min(PROCESSES, workers)
    record(
        "load",
        whole and kept,
        workers=workers,
        cohort=cohort,
        update_mb=round(4 * elements / 1e6, 3),
        watched_s=seconds,
        rounds_s=seen.rounds_s,
        updates_accepted=seen.accepted,
        receipts=len(receipts_s),
        receipt_p50_s=round(float(np.quantile(receipts_s, 0.5)), 3) if receipts_s else None,
        receipt_p99_s=round(float(np.quantile(receipts_s, 0.99)), 3) if receipts_s else None,
        heartbeats=sum(one.heartbeats for one in told),
        heartbeats_late=sum(one.late for one in told),
        heartbeats_missed=seen.missed,
        oldest_sign_s=round(seen.oldest_s, 2),
        sessions_ended=ended,
        peak_mb=peaks_mb,
        coordinator_cores=CORES,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="least time to watch")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.worker:
        measure(given.workers, given.cohort, given.rounds, given.seconds)
        return
    address, elements, first, count = given.worker
    with suppress(KeyboardInterrupt):
        told = asyncio.run(work(address, int(first), int(count), int(elements)))
        sys.stdout.write(json.dumps(asdict(told)) + "\n")


if __name__ == "__main__":
    main()
