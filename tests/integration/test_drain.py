"""A coordinator that is asked to stop finishes what it has begun, then gives its store back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness import PATIENCE_S, Running, ScriptedWorker, initial_of, tiny_recipe, update_for

from fedfleet.rpc.channel import open_channel
from fedfleet.store.open import open_store
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.service import Coordinator


async def test_upload_that_runs_when_the_coordinator_stops_gets_its_receipt(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    config = CoordinatorConfig(store=f"sqlite:{tmp_path}", port=0, ops_port=0, grace_s=PATIENCE_S)
    with open_store(config.store) as store:
        coordinator = Coordinator(config, store)
        await coordinator.start()
        async with open_channel(f"127.0.0.1:{coordinator.port}") as channel:
            running = Running(coordinator, store, channel)
            run_id = await running.submit(recipe)
            worker = ScriptedWorker(running, "worker-0")
            await worker.connect()
            assignment = await worker.assignment()
            update = update_for(assignment, "worker-0", initial_of(recipe), 1.0)
            upload = running.federation.Upload()
            await upload.write(pb.UploadRequest(header=update.header))
            assert (await upload.read()).WhichOneof("message") == "ready"

            closing = asyncio.ensure_future(coordinator.close())
            goodbye = await worker.read()
            assert goodbye is not None
            assert goodbye.goodbye.reconnect
            assert await worker.read() is None
            for piece in worker._pieces(update):
                await upload.write(pb.UploadRequest(chunk=piece))
            await upload.done_writing()
            receipt = (await upload.read()).receipt
            await closing

    assert receipt.assignment_id == assignment.assignment_id
    # Owned again at once, by whoever waits or asks.
    with open_store(config.store) as store, store.own():
        assert store.journal.update(run_id, 1, assignment.assignment_id) is not None
