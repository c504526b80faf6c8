"""A coordinator whose store is away for a moment while it starts: it waits, and says so."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from harness import PATIENCE_S, local_operator

from fedfleet.errors import LeaseLost, StoreUnavailable
from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.channel import open_channel
from fedfleet.store.sqlite import SqliteStore
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet_coordinator import service
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.service import Coordinator
from fedfleet_coordinator.trust import Trust, open_trust


class Locked:
    """Somebody else's transaction on a SQLite store, begun when it was claimed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = folder / "fedfleet.db"
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

        def lock(config: CoordinatorConfig) -> Trust:
            # The first thing that is done with the lease; here, because its beats go on meanwhile.
            self.connection.execute("BEGIN IMMEDIATE")
            return open_trust(config)

        monkeypatch.setattr(service, "open_trust", lock)


def configured(folder: Path) -> CoordinatorConfig:
    return CoordinatorConfig(
        store=f"sqlite:{folder}",
        ca_dir=folder / "ca",
        tls="on",
        port=0,
        ops_port=0,
        enroll_port=0,
        grace_s=1.0,
    )


@contextmanager
def opened(folder: Path) -> Iterator[SqliteStore]:
    with SqliteStore(folder, busy_timeout_s=0.1) as store:
        yield store


@asynccontextmanager
async def starting(
    config: CoordinatorConfig, store: SqliteStore
) -> AsyncIterator[tuple[Coordinator, asyncio.Task[None]]]:
    """A coordinator that is about to start, and its start."""
    coordinator = Coordinator(config, store)
    start = asyncio.create_task(coordinator.start())
    try:
        yield coordinator, start
    finally:
        await coordinator.close()


async def delayed(coordinator: Coordinator) -> str:
    """Wait until the ops port says why it does not serve; no event tells of that."""

    def look() -> str:
        try:
            url = f"http://127.0.0.1:{coordinator._ops.port}/readyz"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(json.loads(answer.read())["detail"])
        except urllib.error.HTTPError as error:
            return str(json.loads(error.read())["detail"])

    async def until() -> str:
        while True:
            detail = await asyncio.to_thread(look)
            if detail.startswith("starting: "):
                return detail
            await asyncio.sleep(0.02)

    return await asyncio.wait_for(until(), PATIENCE_S)


async def answers(coordinator: Coordinator, operator: Credentials | None) -> None:
    address = f"127.0.0.1:{coordinator.port}"
    async with open_channel(address, own_connection=True, credentials=operator) as channel:
        await ControlServiceStub(channel).ListRuns(pb.ListRunsRequest(), timeout=PATIENCE_S)


async def test_start_waits_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path)
    with opened(tmp_path) as store, closing(Locked(tmp_path, monkeypatch).connection) as other:
        async with starting(config, store) as (coordinator, start):
            assert "locked" in await delayed(coordinator)
            assert not start.done()

            other.execute("ROLLBACK")

            await asyncio.wait_for(start, PATIENCE_S)
            await answers(coordinator, local_operator(config))
        actions = [deed.action for deed in store.audit.records()]
    assert actions == ["issue"]


async def test_start_that_waits_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store, closing(Locked(tmp_path, monkeypatch).connection) as other:
        async with starting(configured(tmp_path), store) as (coordinator, start):
            await delayed(coordinator)

            coordinator.give_up()

            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(start, PATIENCE_S)
            other.execute("ROLLBACK")


async def test_start_that_waits_ends_when_another_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store, closing(Locked(tmp_path, monkeypatch).connection) as other:
        async with starting(configured(tmp_path), store) as (coordinator, start):
            await delayed(coordinator)

            other.execute("UPDATE lease SET token = token + 1")
            other.execute("COMMIT")

            with pytest.raises(LeaseLost):
                await asyncio.wait_for(start, PATIENCE_S)
