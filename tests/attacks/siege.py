"""A coordinator with mutual TLS in a round, an honest worker, and an attacker beside it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    initial_of,
    running_coordinator,
    state_of_version,
    tiny_recipe,
    update_for,
)

from fedfleet.errors import FedFleetError
from fedfleet.identity.credentials import Credentials
from fedfleet.obs.logs import JsonFormatter
from fedfleet.rpc.enrolment import enrol
from fedfleet.rpc.status import error_of
from fedfleet.types import Array, ModelState
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.updates import EncodedUpdate

HONEST, MALLORY = "pi-7", "mallory"
# Both are asked; the first update that counts closes the round.
FIRST_COUNTS = tiny_recipe(workers=2, cohort=1, more="over_select = 1")
BOTH_COUNT = tiny_recipe(workers=2, cohort=2)
# What the honest worker learned.
DELTA = 1.0


class Siege:
    """A run of one round for which both were asked; nobody has answered yet.

    Attributes:
        running: as the local operator sees the coordinator.
        insider: as the attacker does, through its own good certificate.
        honest, mallory: their streams.
        asked, given: the assignments of the honest one and of the attacker.
        log: every line that was logged in this process.
    """

    def __init__(self, running: Running, folder: Path, recipe: str, log: list[str]) -> None:
        self.running = running
        self.folder = folder
        self.recipe = recipe
        self.log = log
        self.initial = initial_of(recipe)
        self.secrets: list[str] = []
        self.run_id = ""
        self.insider: Running
        self.honest: ScriptedWorker
        self.mallory: ScriptedWorker
        self.asked: pb.Assignment
        self.given: pb.Assignment

    async def enrolled(self, name: str) -> Credentials:
        """Credentials as a device comes by them; what is secret of them must show up nowhere."""
        token = await self.running.token(name)
        credentials = await enrol(self.running.enrol_address, token, name)
        self.secrets += [token.split("_")[2], credentials.key.decode().splitlines()[1]]
        return credentials

    def update(self, assignment: pb.Assignment, name: str, delta: Any = 9.0) -> EncodedUpdate:
        """A well-formed update of an assignment, in a name."""
        return update_for(assignment, name, self.initial, delta)

    async def upload_and_finish(self) -> EncodedUpdate:
        """The honest worker goes on, and completes the round."""
        encoded = self.update(self.asked, HONEST, DELTA)
        assert not (await self.honest.upload(encoded)).duplicate
        run = await self.running.finished(self.run_id)
        assert (run.state, run.code, run.round) == (control_pb.RUN_STATE_COMPLETED, "", 1)
        return encoded

    async def holds(self) -> None:
        """The honest update completes the round, alone and unchanged; nothing else is kept."""
        encoded = await self.upload_and_finish()
        (shown,) = (await self.running.show(self.run_id)).rounds
        assert shown.updates == 1
        (version,) = self.running.store.registry.versions("tiny")
        state = state_of_version(self.running.store, "tiny")
        np.testing.assert_allclose(state.trainable - self.initial.trainable, DELTA, rtol=1e-6)
        # What the run lived on is deleted after its end has been told.
        await until(lambda: stored(self.folder) == [version.digest])
        # Of an upload that was cut, one beginning for each assignment may be left.
        left = [path.stat().st_size for path in (self.folder / "partial").iterdir()]
        assert len(left) <= 2
        assert sum(left) <= 2 * encoded.header.payload_bytes


def stored(folder: Path) -> list[str]:
    """Names of the blobs of a state folder."""
    return sorted(path.name for path in (folder / "blobs").rglob("*") if path.is_file())


async def until(condition: Callable[[], bool]) -> None:
    """Return once something holds that the coordinator brings about by itself."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def besieged(
    folder: Path, recipe: str = FIRST_COUNTS, **settings: Any
) -> AsyncIterator[Siege]:
    """Both are enrolled, connected and asked. The log is looked at in the end."""
    async with AsyncExitStack() as stack:
        lines = stack.enter_context(logged())
        running = await stack.enter_async_context(running_coordinator(folder, tls="on", **settings))
        siege = Siege(running, folder, recipe, lines)
        seen = [
            await stack.enter_async_context(running.seen_by(await siege.enrolled(name)))
            for name in (HONEST, MALLORY)
        ]
        siege.insider = seen[1]
        siege.honest, siege.mallory = (
            ScriptedWorker(seen[0], HONEST),
            ScriptedWorker(seen[1], MALLORY),
        )
        await siege.honest.connect()
        await siege.mallory.connect()
        siege.run_id = await running.submit(recipe)
        siege.asked, siege.given = await siege.honest.assignment(), await siege.mallory.assignment()
        yield siege
        siege.honest.leave()
        siege.mallory.leave()
    check_log(lines, siege.secrets)


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what this process logs, as a service would write it, from debug on."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler, root = Collector(), logging.getLogger()
    handler.setFormatter(JsonFormatter("coordinator"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def check_log(lines: list[str], secrets: list[str]) -> None:
    """Every record is one line of printable ASCII, nothing crashed, and no secret is in it."""
    for line in lines:
        assert line.startswith("{"), line
        record = json.loads(line)
        assert line.isascii()
        assert line.isprintable()
        assert record["event"] not in ("rpc_failed", "run_crashed"), line
        assert not any(secret in line for secret in secrets)


async def refused(codes: str | Collection[str], attack: Awaitable[object]) -> FedFleetError:
    """Carry out an attack that must be answered with one of these codes, in one printable line."""
    wanted = (codes,) if isinstance(codes, str) else codes
    try:
        answer = await attack
    except grpc.aio.AioRpcError as error:
        known = error_of(error)
    except FedFleetError as error:
        known = error
    else:
        raise AssertionError(f"expected {codes}, got {answer!r}")
    assert known.code in wanted, f"{known.code}: {known.message} {known.detail}"
    assert known.message
    assert known.message.isprintable(), repr(known.message)
    return known


def flat(state: ModelState, value: float, at: int = 0) -> Array:
    """A delta that is harmless but for one element."""
    delta_P = np.full(state.trainable.shape, 0.1, np.float32)
    delta_P[at] = value
    return delta_P
