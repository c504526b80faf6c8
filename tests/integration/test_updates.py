"""Updates over a real stream: what is journalled, what counts once, what is resumed.

What is refused because it is malformed is in test_bad_uploads.py.

The workers are scripted, so that each can send what a real one never would.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    Running,
    ScriptedWorker,
    initial_of,
    raises_code,
    running_coordinator,
    state_of_version,
    tiny_recipe,
    update_for,
)

from fedfleet.store.open import open_store
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.control_service_pb2 import StopRunRequest
from fedfleet.wire.chunks import chunks
from fedfleet.wire.limits import CHUNK_BYTES


async def one_worker_round(
    running: Running, *, more: str = "", held: tuple[str, ...] = ()
) -> tuple[ScriptedWorker, pb.Assignment, str, Any]:
    """A run with one worker, connected and holding its first assignment."""
    recipe = tiny_recipe(workers=1, cohort=1, more=more)
    run_id = await running.submit(recipe)
    worker = ScriptedWorker(running, "worker-0")
    await worker.connect(held)
    return worker, await worker.assignment(), run_id, initial_of(recipe)


async def test_round_of_two_workers_makes_the_weighted_mean(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        initial = initial_of(recipe)
        for worker in workers:
            await worker.connect()
        for worker, delta, weight in zip(workers, (1.0, 4.0), (30.0, 10.0), strict=True):
            assignment = await worker.assignment()
            assert await worker.download(assignment)
            update = update_for(assignment, worker.worker_id, initial, delta, weight)
            assert not (await worker.upload(update)).duplicate
        run = await running.finished(run_id)
        state = state_of_version(running.store, "tiny")

    assert (run.code, run.round) == ("", 1)
    np.testing.assert_allclose(state.trainable - initial.trainable, 1.75, rtol=1e-6)


async def test_second_upload_of_an_update_counts_once(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        assignments = [await worker.assignment() for worker in workers]
        initial = initial_of(recipe)
        first = update_for(assignments[0], "worker-0", initial, 1.0)
        assert not (await workers[0].upload(first)).duplicate
        assert (await workers[0].upload(first)).duplicate
        await workers[1].upload(update_for(assignments[1], "worker-1", initial, 3.0))
        await running.finished(run_id)
        # The round is over: a retry whose receipt was lost still learns that it counted.
        assert (await workers[0].upload(first)).duplicate
        state = state_of_version(running.store, "tiny")

    np.testing.assert_allclose(state.trainable - initial.trainable, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "code"),
    [(np.nan, "UPDATE_NOT_FINITE"), (np.inf, "UPDATE_NOT_FINITE"), (1e9, "UPDATE_OUT_OF_RANGE")],
)
async def test_update_with_values_that_cannot_be_is_refused_and_the_run_says_so(
    value: float, code: str, tmp_path: Path
) -> None:
    async with running_coordinator(tmp_path) as running:
        worker, assignment, run_id, initial = await one_worker_round(running, more="attempts = 1")
        update = update_for(assignment, "worker-0", initial, value)
        await raises_code(code, worker.upload(update))
        run = await running.finished(run_id)
        assert running.store.registry.versions("tiny") == []
        # The service is alive, and a good run goes through.
        run_id = await running.submit(tiny_recipe(workers=1, cohort=1))
        again = await worker.assignment()
        await worker.upload(update_for(again, "worker-0", initial, 0.5))
        assert (await running.finished(run_id)).code == ""

    assert run.code == "QUORUM_NOT_MET"
    assert code in run.reason


async def test_refused_update_leaves_no_bytes_behind(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        worker, assignment, run_id, initial = await one_worker_round(running, more="attempts = 2")
        bad = update_for(assignment, "worker-0", initial, np.nan)
        await raises_code("UPDATE_NOT_FINITE", worker.upload(bad))
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, "worker-0", initial, 1.0))
        await running.finished(run_id)
        assert running.store.blobs.size(bad.header.payload_digest) is None


async def test_stopped_run_leaves_no_updates_behind(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        recipe = tiny_recipe()
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        update = update_for(await workers[0].assignment(), "worker-0", initial_of(recipe), 1.0)
        await workers[0].upload(update)
        assert running.store.blobs.size(update.header.payload_digest)
        await running.control.StopRun(StopRunRequest(run_id=run_id), timeout=10)
        await running.finished(run_id)
    with open_store(f"sqlite:{tmp_path}") as store:
        assert store.blobs.size(update.header.payload_digest) is None


@pytest.mark.parametrize(
    "change",
    [
        {"worker_id": "worker-1"},
        {"assignment_id": "r-0/1/1/train/worker-0"},
        {"run_id": "r-0"},
    ],
)
async def test_update_of_no_open_assignment_of_its_sender_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    async with running_coordinator(tmp_path) as running:
        worker, assignment, _, initial = await one_worker_round(running)
        update = update_for(assignment, "worker-0", initial, 1.0)
        for name, value in change.items():
            setattr(update.header, name, value)
        await raises_code("ASSIGNMENT_CLOSED", worker.upload(update))
        assert running.store.journal.updates(assignment.run_id, 1) == []


async def test_upload_resumes_where_the_connection_was_cut(tmp_path: Path) -> None:
    recipe = """
name = "tiny"
[model]
architecture = "mlp"
hidden = [600, 600]
[data]
dataset = "synthetic"
partition = "iid"
workers = 1
[rounds]
rounds = 1
cohort = 1
"""
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        update = update_for(assignment, "worker-0", initial_of(recipe), 0.25)
        payload = update.payload
        assert len(payload) > CHUNK_BYTES
        pieces = list(chunks(lambda at, n: payload[at : at + n], len(payload)))
        await raises_code("TRANSFER_INVALID", worker.upload_raw(update.header, pieces[:1]))
        # Only what is missing is offered: a coordinator that forgot the first chunk would refuse.
        assert not (await worker.upload_raw(update.header, pieces[1:])).duplicate
        assert (await running.finished(run_id)).code == ""


async def test_newer_upload_of_an_assignment_takes_over_from_one_that_hangs(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path) as running:
        worker, assignment, run_id, initial = await one_worker_round(running)
        update = update_for(assignment, "worker-0", initial, 1.0)
        hanging = running.federation.Upload()
        await hanging.write(pb.UploadRequest(header=update.header))
        ready = await hanging.read()
        assert ready.WhichOneof("message") == "ready"
        assert not (await worker.upload(update)).duplicate
        assert (await running.finished(run_id)).code == ""
        hanging.cancel()


async def test_update_for_a_round_that_has_closed_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=3, cohort=1, more="over_select = 1")
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        assignments = [await worker.assignment() for worker in workers]
        initial = initial_of(recipe)
        await workers[0].upload(update_for(assignments[0], "worker-0", initial, 1.0))
        assert (await workers[1].cancelled()).assignment_id == assignments[1].assignment_id
        await running.finished(run_id)
        late = update_for(assignments[1], "worker-1", initial, 9.0)
        await raises_code("ASSIGNMENT_CLOSED", workers[1].upload(late))
        assert running.store.blobs.size(late.header.payload_digest) is None
        state = state_of_version(running.store, "tiny")

    np.testing.assert_allclose(state.trainable - initial.trainable, 1.0, rtol=1e-6)


async def test_updates_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for number, order in enumerate([(0, 1, 2), (2, 0, 1)]):
        recipe = tiny_recipe(workers=3, cohort=3)
        async with running_coordinator(tmp_path / str(number)) as running:
            run_id = await running.submit(recipe)
            workers = [ScriptedWorker(running, f"worker-{i}") for i in range(3)]
            for worker in workers:
                await worker.connect()
            initial = initial_of(recipe)
            for i in order:
                assignment = await workers[i].assignment()
                update = update_for(assignment, f"worker-{i}", initial, 0.1 + i, 7.0 + i)
                await workers[i].upload(update)
            await running.finished(run_id)
            digests.add(running.store.registry.versions("tiny")[0].digest)
    assert len(digests) == 1


async def test_uploads_at_the_same_time_are_all_journalled(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=8, cohort=8)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(8)]
        for worker in workers:
            await worker.connect()
        initial = initial_of(recipe)
        assignments = [await worker.assignment() for worker in workers]
        # The very same bytes from each: one blob, eight updates.
        receipts = await asyncio.gather(
            *(
                worker.upload(update_for(assignment, worker.worker_id, initial, 1.0))
                for worker, assignment in zip(workers, assignments, strict=True)
            )
        )
        await running.finished(run_id)
        shown = await running.show(run_id)

    assert [receipt.duplicate for receipt in receipts] == [False] * 8
    assert shown.rounds[0].updates == 8
