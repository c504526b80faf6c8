"""A coordinator whose Redis goes away while an update comes: no receipt, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answer_relay import AnswerRelay, answer_relay
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    initial_of,
    running_coordinator,
    tiny_recipe,
    update_for,
)
from redis_process import RedisProcess, redis_process

from fedfleet.errors import FedFleetError
from fedfleet.store.protocols import Store
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.updates import EncodedUpdate

RECIPE = tiny_recipe(rounds=2)
DELTAS = {"worker-0": 1.0, "worker-1": 4.0}
Switch = Callable[[RedisProcess, AnswerRelay], None]
# How Redis goes away, and how it comes back.
FAULTS: dict[str, tuple[Switch, Switch]] = {
    "killed": (lambda server, _: server.kill(), lambda server, _: server.start()),
    "standing still": (lambda server, _: server.pause(), lambda server, _: server.go_on()),
    "answers lost": (
        lambda _, relay: relay.lose_answers(10**9),
        lambda _, relay: relay.lose_answers(0),
    ),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of the versions of a run that nothing happens to, newest first."""

    async def digests() -> list[str]:
        async with running_coordinator(tmp_path_factory.mktemp("state")) as running:
            run_id = await running.submit(RECIPE)
            workers = await connected(running)
            for _ in range(2):
                for worker in workers:
                    await worker.upload(await trained(worker))
            await running.finished(run_id)
            return digests_of(running.store)

    return asyncio.run(digests())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisProcess]:
    with redis_process(tmp_path / "redis") as server:
        yield server


@pytest.mark.parametrize("moment", ["header", "chunks"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_redis_goes_away_while_an_update_comes(
    tmp_path: Path, server: RedisProcess, undisturbed: list[str], fault: str, moment: str
) -> None:
    goes, comes = FAULTS[fault]
    with answer_relay(server.port) as relay:
        url = f"redis://{relay.address}/0?namespace=away"
        async with running_coordinator(tmp_path, store_url=url) as running:
            run_id = await running.submit(RECIPE)
            first, second = await connected(running)
            await first.upload(await trained(first))
            update = await trained(second)

            answers = [await attempt(second, update, moment, lambda: goes(server, relay))]
            answers.append(await attempt(second, update, "", lambda: None))
            await asyncio.to_thread(comes, server, relay)
            await delivered(second, update)
            for worker in (first, second):
                await delivered(worker, await trained(worker, after=update))
            run = await running.finished(run_id)

            entries = running.store.journal.entries(run_id)
            digests = digests_of(running.store)

    assert not any(isinstance(answer, pb.Receipt) for answer in answers)
    assert {answer.code for answer in answers} <= {"STORE_UNAVAILABLE", "UNAVAILABLE"}
    assert (run.code, run.round) == ("", 2)
    accepted = [e.fields["assignment_id"] for e in entries if e.kind == "update_accepted"]
    assert len(accepted) == len(set(accepted)) == 4
    assert digests == undisturbed


async def connected(running: Running) -> list[ScriptedWorker]:
    workers = [ScriptedWorker(running, name) for name in DELTAS]
    for worker in workers:
        await worker.connect()
    return workers


async def trained(worker: ScriptedWorker, after: EncodedUpdate | None = None) -> EncodedUpdate:
    """The update of the next assignment, which is not of the round of another update."""
    while True:
        assignment = await worker.assignment()
        if after is None or assignment.round != after.header.round:
            return update_for(
                assignment, worker.worker_id, initial_of(RECIPE), DELTAS[worker.worker_id]
            )


async def attempt(
    worker: ScriptedWorker, update: EncodedUpdate, moment: str, happens: Callable[[], None]
) -> Any:
    """Upload while something happens; the receipt, or the error that came instead."""
    pieces = worker._pieces(update)
    if moment == "header":
        await asyncio.to_thread(happens)
    elif moment == "chunks":
        pieces = Interrupted(pieces, happens)
    try:
        return await worker.upload_raw(update.header, pieces)
    except FedFleetError as error:
        return error


class Interrupted(list[Any]):
    """Chunks before whose first one something happens: after the coordinator asked for them."""

    def __init__(self, pieces: list[Any], happens: Callable[[], None]) -> None:
        super().__init__(pieces)
        self._happens = happens

    def __iter__(self) -> Iterator[Any]:
        self._happens()
        return super().__iter__()


async def delivered(worker: ScriptedWorker, update: EncodedUpdate) -> None:
    """Upload as a real worker does: again, until there is a receipt."""

    async def deliver() -> None:
        while not isinstance(answer := await attempt(worker, update, "", lambda: None), pb.Receipt):
            assert answer.retryable, answer
            await asyncio.sleep(0.1)  # a worker's own wait, shortened

    await asyncio.wait_for(deliver(), PATIENCE_S)


def digests_of(store: Store) -> list[str]:
    return [version.digest for version in store.registry.versions("tiny")]
