"""The bound on uploads that are received at once: it holds, and slow workers stop nobody."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from harness import (
    PATIENCE_S,
    ScriptedWorker,
    free_port,
    initial_of,
    running_coordinator,
    tiny_recipe,
    update_for,
)
from prometheus_client.parser import text_string_to_metric_families

from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.chunks import chunks
from fedfleet.wire.updates import EncodedUpdate

ROOM_MB = 2
SLOW = 3


def in_flight_bytes(ops_port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{ops_port}/metrics") as answer:
        text = answer.read().decode()
    [value] = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "fedfleet_coordinator_upload_in_flight_bytes"
    ]
    return value


def only_chunk(encoded: EncodedUpdate) -> pb.UploadRequest:
    payload = encoded.payload
    [chunk] = chunks(lambda at, n: payload[at : at + n], len(payload))
    return pb.UploadRequest(chunk=chunk)


async def test_slow_workers_fill_the_room_no_further_and_then_give_it_up(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=SLOW + 1, cohort=SLOW + 1)
    ops_port = free_port()
    async with running_coordinator(tmp_path, in_flight_mb=ROOM_MB, ops_port=ops_port) as running:
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(SLOW + 1)]
        for worker in workers:
            await worker.connect()
        initial = initial_of(recipe)
        updates = [
            update_for(await worker.assignment(), worker.worker_id, initial, float(i))
            for i, worker in enumerate(workers)
        ]
        calls = [running.federation.Upload(timeout=PATIENCE_S) for _ in range(SLOW)]
        for call, update in zip(calls, updates, strict=False):
            await call.write(pb.UploadRequest(header=update.header))
            assert (await call.read()).WhichOneof("message") == "ready"

        # Nobody sends a chunk: two hold the room, the third and the one that is quick wait for it.
        quick = asyncio.create_task(workers[SLOW].upload(updates[SLOW]))
        seen = set()
        while not quick.done():
            seen.add(await asyncio.to_thread(in_flight_bytes, ops_port))

        assert not quick.result().duplicate
        assert max(seen) == ROOM_MB << 20
        # What the slow ones send at last is taken as well.
        for call, update in zip(calls, updates, strict=False):
            await call.write(only_chunk(update))
            assert (await call.read()).WhichOneof("message") == "receipt"
        assert (await running.finished(run_id)).code == ""
        assert await asyncio.to_thread(in_flight_bytes, ops_port) == 0
