"""A standby takes a store over from an owner that died, stopped, or stood still."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from durability.killed_run import SIGNER
from durability.lives import counted_fleet
from durability.verdict import judge
from harness import (
    PATIENCE_S,
    ScriptedWorker,
    free_port,
    initial_of,
    process,
    state_of_version,
    tiny_recipe,
    update_for,
    watch_until,
)
from redis_process import redis_process

from fedfleet.errors import FedFleetError
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.status import error_of
from fedfleet.sim.driver import simulate
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.chunks import chunks

# From the owner's end until the standby answers, with the lease as it is by default.
TAKEOVER_S = 10.0
WORKERS = 3
RECIPE = f"""
name = "failover"
seed = 19
[model]
architecture = "mlp"
hidden = [200]
[data]
dataset = "digits"
partition = "iid"
workers = {WORKERS}
[training]
epochs = 2
threads = 1
[rounds]
rounds = 4
cohort = {WORKERS}
deadline_s = 300
[algorithm]
name = "scaffold"
"""


@dataclass(frozen=True)
class Pair:
    """An owner and its standby, each a process, on one store."""

    store: str
    folder: Path
    ports: tuple[int, int]
    lease_s: float | None

    @property
    def addresses(self) -> tuple[str, str]:
        return f"127.0.0.1:{self.ports[0]}", f"127.0.0.1:{self.ports[1]}"

    def log(self, which: int) -> str:
        return self._log(which).read_text()

    async def standing_by(self) -> None:
        """Wait until the standby has found that the store has an owner."""
        until_s = time.monotonic() + PATIENCE_S
        while "lease_awaited" not in self.log(1):
            assert time.monotonic() < until_s, self.log(1)
            await asyncio.sleep(0.05)  # a file has no event to wait for

    def _log(self, which: int) -> Path:
        return self.folder / f"coordinator-{which}.log"

    @contextmanager
    def started(self, which: int) -> Iterator[subprocess.Popen[bytes]]:
        settings = {
            "FEDFLEET_PORT": str(self.ports[which]),
            "FEDFLEET_OPS_PORT": "0",
            "FEDFLEET_STORE": self.store,
            "FEDFLEET_STANDBY": str(which),
            "FEDFLEET_CA_DIR": str(self.folder / "ca"),
        }
        if self.lease_s is not None:
            settings["FEDFLEET_LEASE_S"] = str(self.lease_s)
        with process(self._log(which), "-m", "fedfleet_coordinator", **settings) as child:
            yield child


@contextmanager
def a_pair(store: str, folder: Path, lease_s: float | None = None) -> Iterator[Pair]:
    ports = (free_port(), free_port())
    if store == "sqlite":
        yield Pair(f"sqlite:{folder / 'state'}", folder, ports, lease_s)
        return
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine; Debian: apt-get install redis-server")
    with redis_process(folder / "redis") as redis:
        yield Pair(redis.url(), folder, ports, lease_s)


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[Any]:
    """The services at an address, once they answer."""
    async with open_channel(address, own_connection=True) as channel:
        control: Any = ControlServiceStub(channel)
        request = control_pb.ListRunsRequest()
        await control.ListRuns(request, timeout=PATIENCE_S, wait_for_ready=True)
        yield SimpleNamespace(control=control, federation=FederationServiceStub(channel))


async def submit(services: Any, recipe: str) -> str:
    request = control_pb.SubmitRunRequest(recipe=recipe)
    return str((await services.control.SubmitRun(request, timeout=PATIENCE_S)).run.run_id)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "end"),
    [("sqlite", signal.SIGKILL), ("redis", signal.SIGKILL), ("redis", signal.SIGTERM)],
)
async def test_standby_goes_on_in_the_round_in_which_the_owner_ended(
    store: str, end: signal.Signals, tmp_path: Path
) -> None:
    with a_pair(store, tmp_path) as pair, pair.started(0) as owner:
        async with serving(pair.addresses[0]) as services:
            run_id = await submit(services, RECIPE)
        with (
            pair.started(1),
            counted_fleet(",".join(pair.addresses), WORKERS, tmp_path) as ledger,
        ):
            await pair.standing_by()
            await watch_until(pair.addresses[0], run_id, "update_accepted", 2)
            owner.send_signal(end)
            ended_s = time.monotonic()
            async with serving(pair.addresses[1]):
                took_s = time.monotonic() - ended_s
            await watch_until(pair.addresses[1], run_id, "run_finished", 4)
        status = await asyncio.to_thread(owner.wait, 30)
        verdict = judge(pair.store, run_id, ledger, tmp_path / "ca" / SIGNER)
        with open_store(pair.store) as reader:
            state = state_of_version(reader, "failover")

    assert verdict.broken == []
    assert took_s < TAKEOVER_S
    assert status == (0 if end is signal.SIGTERM else -signal.SIGKILL)
    reference = simulate(parse_recipe(RECIPE)).state
    assert state.trainable.tobytes() == reference.trainable.tobytes()


def all_of(store: Store, run_id: str, model: str) -> tuple[object, ...]:
    """Everything that a coordinator writes about a run."""
    return (
        store.journal.run(run_id),
        store.journal.entries(run_id),
        [store.journal.updates(run_id, round) for round in range(5)],
        store.registry.versions(model),
        store.registry.aliases(model),
        store.registry.events(),
        store.audit.records(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "redis"])
async def test_owner_that_stood_still_wakes_up_and_writes_nothing(
    store: str, tmp_path: Path
) -> None:
    recipe = tiny_recipe(rounds=2)
    initial = initial_of(recipe)
    with a_pair(store, tmp_path, lease_s=1.0) as pair, pair.started(0) as owner:
        async with serving(pair.addresses[0]) as old:
            run_id = await submit(old, recipe)
            with pair.started(1), open_store(pair.store) as reader:
                names = ("worker-0", "worker-1")
                before = [ScriptedWorker(old, name) for name in names]
                for worker in before:
                    await worker.connect()
                given = [await worker.assignment() for worker in before]
                await before[0].upload(update_for(given[0], "worker-0", initial, 1.0))
                late = update_for(given[1], "worker-1", initial, 5.0)
                upload = Unfinished(old, late.header, late.payload)
                await upload.begin()
                await pair.standing_by()

                owner.send_signal(signal.SIGSTOP)
                stopped_s = time.monotonic()
                async with serving(pair.addresses[1]) as new:
                    took_s = time.monotonic() - stopped_s
                    after = [ScriptedWorker(new, name) for name in names]
                    for worker, one in zip(after, given, strict=True):
                        await worker.connect((one.assignment_id,))
                    again = await after[1].assignment()
                    await after[1].upload(update_for(again, "worker-1", initial, 3.0))
                    second = [await worker.assignment() for worker in after]
                    state = state_of_version(reader, "tiny")
                    kept = all_of(reader, run_id, "tiny")
                    # What it finds when it wakes up, and would journal.
                    failure = pb.AssignmentFailure(assignment_id=given[1].assignment_id, code="X")
                    await before[1].send(failure=failure)

                    owner.send_signal(signal.SIGCONT)
                    error = await upload.finish()
                    status = await asyncio.to_thread(owner.wait, 30)
                    found = all_of(reader, run_id, "tiny")

                    for worker, one in zip(after, second, strict=True):
                        await worker.upload(update_for(one, worker.worker_id, state, 1.0))
                    await watch_until(pair.addresses[1], run_id, "run_finished", 2)
                    run = reader.journal.run(run_id)

    assert took_s < TAKEOVER_S
    assert again.assignment_id == given[1].assignment_id
    assert [one.round for one in second] == [2, 2]
    assert abs(state.trainable - initial.trainable - 2.0).max() < 1e-6
    assert found == kept
    assert error.retryable, error.code
    assert status == 1
    assert "LEASE_LOST" in pair.log(0)
    assert (run.state.value, run.round) == ("completed", 2)


class Unfinished:
    """An upload of which the last chunk is kept back."""

    def __init__(self, services: Any, header: pb.UpdateHeader, payload: bytes) -> None:
        self._call = services.federation.Upload()
        self._header = header
        self._payload = payload

    async def begin(self) -> None:
        await self._call.write(pb.UploadRequest(header=self._header))
        response = await self._call.read()
        assert response.ready.offset_bytes == 0

    async def finish(self) -> FedFleetError:
        """Send the rest; returns why there was no receipt."""
        payload = self._payload
        piece = next(chunks(lambda at, n: payload[at : at + n], len(payload)))
        try:
            await self._call.write(pb.UploadRequest(chunk=piece))
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            return error_of(error)
        raise AssertionError(f"answered with {response}")
