"""A coordinator in a process of its own, so that its memory and its log can be looked at."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from attacks.siege import HONEST, MALLORY, check_log
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    free_port,
    initial_of,
    process,
    tiny_recipe,
    update_for,
)

from fedfleet.identity.authority import OPERATOR_FOLDER
from fedfleet.identity.credentials import load_credentials
from fedfleet.rpc.channel import open_channel
from fedfleet.store.open import open_store
from fedfleet.types import ModelState
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb

HEARTBEAT_S = 1.0
# The honest worker's part of a round, whatever goes on beside it; alone it takes a tenth of it.
WITHIN_S = 10.0
ALONE = tiny_recipe(workers=1, cohort=1)


@dataclass(frozen=True)
class Field:
    """Who is where in a round.

    Attributes:
        running: as the operator sees the coordinator.
        seen: as others do, by name, each through a certificate and a connection of its own.
        workers, asked: streams and assignments of those who were asked.
    """

    running: Running
    seen: Mapping[str, Running]
    workers: Mapping[str, ScriptedWorker]
    asked: Mapping[str, pb.Assignment]
    initial: ModelState

    @property
    def insider(self) -> Running:
        """As the attacker sees it, who has a worker's certificate."""
        return self.seen[MALLORY]


@dataclass(frozen=True)
class Besieged:
    """Where the process is and what it writes.

    Attributes:
        port, enroll_port, ops_port: where it listens.
        folder: of its store.
        log: what it wrote on stderr.
        pid: of the process.
    """

    port: int
    enroll_port: int
    ops_port: int
    folder: Path
    log: Path
    pid: int

    def memory_bytes(self) -> int:
        """What it has in memory now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @asynccontextmanager
    async def operated(self) -> AsyncIterator[Running]:
        """It as its local operator sees it."""
        operator = load_credentials(self.folder / "ca" / OPERATOR_FOLDER)
        address = f"127.0.0.1:{self.port}"
        with open_store(f"sqlite:{self.folder}") as store:
            async with open_channel(address, own_connection=True, credentials=operator) as channel:
                yield Running(self, store, channel, operator)  # type: ignore[arg-type]  # its ports


@contextmanager
def coordinator_process(folder: Path, **settings: str) -> Iterator[Besieged]:
    """Start it with mutual TLS, and look at its log when it has ended: no key of it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = [free_port() for _ in range(3)]
    log = folder / "coordinator.log"
    environ = {
        "FEDFLEET_PORT": str(ports[0]),
        "FEDFLEET_ENROLL_PORT": str(ports[1]),
        "FEDFLEET_OPS_PORT": str(ports[2]),
        "FEDFLEET_TLS": "on",
        "FEDFLEET_STORE": f"sqlite:{folder / 'state'}",
        "FEDFLEET_HEARTBEAT_S": str(HEARTBEAT_S),
        "FEDFLEET_GRACE_S": "1",
        "FEDFLEET_LOG_LEVEL": "debug",
        **settings,
    }
    with process(log, "-m", "fedfleet_coordinator", **environ) as child:
        deadline_s = time.monotonic() + PATIENCE_S
        while "coordinator_started" not in log.read_text():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        yield Besieged(*ports, folder / "state", log, child.pid)
        assert child.poll() is None, log.read_text()[-4000:]
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0
    keys = [path.read_text().splitlines()[1] for path in (folder / "state" / "ca").rglob("*.key")]
    assert keys
    check_log(log.read_text().splitlines(), keys)


@asynccontextmanager
async def honest_beside(
    besieged: Besieged, recipe: str = ALONE, others: Sequence[str] = ()
) -> AsyncIterator[Field]:
    """What is attacked goes on: the honest worker is asked before, and dials anew in the middle of
    it to complete its round in the stated time.

    Args:
        others: attackers who are asked as well; the first update that counts closes the round.
    """
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(besieged.operated())
        seen = {
            name: await stack.enter_async_context(running.seen_by(await running.enrolled(name)))
            for name in dict.fromkeys((HONEST, MALLORY, *others))
        }
        workers = {name: ScriptedWorker(seen[name], name) for name in (HONEST, *others)}
        for worker in workers.values():
            await worker.connect()
            stack.callback(worker.leave)
        beating = asyncio.create_task(_beat(workers[HONEST]))
        stack.callback(beating.cancel)
        run_id = await running.submit(recipe)
        asked = {name: await worker.assignment() for name, worker in workers.items()}
        try:
            yield Field(running, seen, workers, asked, initial_of(recipe))
        except BaseException:  # for the tests that follow
            await running.control.StopRun(control_pb.StopRunRequest(run_id=run_id))
            raise
        began_s = time.monotonic()
        async with running.seen_by(seen[HONEST].credentials) as anew:
            worker = ScriptedWorker(anew, HONEST)
            await worker.download(asked[HONEST])
            await worker.upload(update_for(asked[HONEST], HONEST, initial_of(recipe), 1.0))
        run = await running.finished(run_id)
        took_s = time.monotonic() - began_s
        assert (run.state, run.code) == (control_pb.RUN_STATE_COMPLETED, "")
        assert took_s < WITHIN_S
        (shown,) = (await running.show(run_id)).rounds
        assert shown.updates == 1
        assert not beating.done()


async def _beat(worker: ScriptedWorker) -> None:
    while True:
        await worker.send(heartbeat=pb.Heartbeat())
        await asyncio.sleep(HEARTBEAT_S)
