"""Two coordinators on one store: one owns it, the other takes over, and nobody writes twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from harness import PATIENCE_S, fleet, free_port, process, tiny_recipe, watch_until

from fedfleet.rpc.channel import open_channel
from fedfleet.store.open import open_store
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

TAKEN_OVER_S = 10.0
RECIPE = tiny_recipe(rounds=40, more="deadline_s = 60")


class Pair:
    """Processes that share a state folder; each has its own log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store = f"sqlite:{folder / 'state'}"

    def coordinator(
        self, name: str, port: int, ops_port: int = 0, **settings: str
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return process(
            self._log(name),
            "-m",
            "fedfleet_coordinator",
            FEDFLEET_PORT=str(port),
            FEDFLEET_OPS_PORT=str(ops_port),
            FEDFLEET_STORE=self.store,
            FEDFLEET_STANDBY="1",
            FEDFLEET_GRACE_S="1",
            **settings,
        )

    def lines(self, name: str) -> list[str]:
        path = self._log(name)
        return path.read_text().splitlines() if path.exists() else []

    async def logged(self, name: str, event: str) -> None:
        """Wait for a line of a log, which comes from another process: there is no event for it."""
        until_s = time.monotonic() + PATIENCE_S
        while not any(json.loads(line)["event"] == event for line in self.lines(name)):
            assert time.monotonic() < until_s, self.lines(name)
            await asyncio.sleep(0.05)

    async def pause(self, owner: subprocess.Popen[bytes]) -> None:
        """Stop a process where it is, but not inside a transaction: that would lock all out."""
        path = self._folder / "state" / "fedfleet.db"
        while True:
            owner.send_signal(signal.SIGSTOP)
            with closing(sqlite3.connect(path, timeout=1.0)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    owner.send_signal(signal.SIGCONT)
                    await asyncio.sleep(0.05)
                    continue
                connection.rollback()
                return

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


async def submit(address: str) -> str:
    async with open_channel(address) as channel:
        control = ControlServiceStub(channel)
        request = pb.SubmitRunRequest(recipe=RECIPE)
        response = await control.SubmitRun(request, timeout=PATIENCE_S, wait_for_ready=True)
    return response.run.run_id


async def serving(address: str) -> float:
    """Wait until somebody answers; returns when that was."""
    async with open_channel(address) as channel:
        request = pb.ListRunsRequest()
        control = ControlServiceStub(channel)
        await control.ListRuns(request, timeout=PATIENCE_S, wait_for_ready=True)
    return time.monotonic()


def ready(ops_port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ops_port}/readyz", timeout=10) as answer:
            return answer.status, json.loads(answer.read())["detail"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_standby_takes_over_and_the_run_goes_on(tmp_path: Path, number: int) -> None:
    port, ops_port = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    pair = Pair(tmp_path)
    with fleet(address, 2, tmp_path), pair.coordinator("owner", port) as owner:
        run_id = await submit(address)
        # The same port: it is free as soon as the owner is gone, and workers dial it again.
        with pair.coordinator("standby", port, ops_port) as standby:
            await pair.logged("standby", "lease_awaited")
            assert ready(ops_port) == (503, "standby: another coordinator owns the store")
            await watch_until(address, run_id, "round_committed", 3)

            owner.send_signal(number)
            code = await asyncio.to_thread(owner.wait, 30)
            gone_s = time.monotonic()
            taken_s = await serving(address) - gone_s

            assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            assert taken_s < TAKEN_OVER_S
            await watch_until(address, run_id, "run_finished", 40)
            assert ready(ops_port) == (200, "serving")
            standby.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(standby.wait, 30) == 0

    with open_store(pair.store) as store:
        entries = store.journal.entries(run_id)
        assert store.journal.run(run_id).state.value == "completed"
    accepted = [e.fields["assignment_id"] for e in entries if e.kind == "update_accepted"]
    assert len(accepted) == len(set(accepted)) == 80


@pytest.mark.slow
async def test_paused_owner_that_wakes_up_ends_without_a_write(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    pair = Pair(tmp_path)
    with pair.coordinator("owner", ports[0], FEDFLEET_LEASE_S="2") as owner:
        await serving(f"127.0.0.1:{ports[0]}")
        with pair.coordinator("standby", ports[1], FEDFLEET_LEASE_S="2"):
            await pair.logged("standby", "lease_awaited")
            await pair.pause(owner)
            began_s = time.monotonic()
            assert await serving(f"127.0.0.1:{ports[1]}") - began_s < TAKEN_OVER_S
            owner.send_signal(signal.SIGCONT)

            assert await asyncio.to_thread(owner.wait, 30) == 1
            last = pair.lines("owner")[-1]
            assert last.startswith("fedfleet-coordinator: LEASE_LOST: ")
            # The new owner writes on.
            await submit(f"127.0.0.1:{ports[1]}")


@pytest.mark.slow
async def test_standby_that_is_stopped_while_it_waits_ends_well(tmp_path: Path) -> None:
    port = free_port()
    pair = Pair(tmp_path)
    with pair.coordinator("owner", port):
        await serving(f"127.0.0.1:{port}")
        with pair.coordinator("standby", port) as standby:
            await pair.logged("standby", "lease_awaited")

            standby.send_signal(signal.SIGTERM)

            assert await asyncio.to_thread(standby.wait, 30) == 0
