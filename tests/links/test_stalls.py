"""Transfers whose bytes stop moving are ended; the worker goes on from there, or another does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    initial_of,
    running_coordinator,
    update_for,
)
from links.services import recipe_of

from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.chunks import chunks
from fedfleet.wire.updates import EncodedUpdate

HIDDEN = [900, 300]
STALL_S = 1.0


async def worker_with_update(
    running: Running,
) -> tuple[ScriptedWorker, pb.Assignment, EncodedUpdate]:
    recipe = recipe_of(HIDDEN)
    worker = ScriptedWorker(running, "worker-0")
    await worker.connect()
    assignment = await worker.assignment()
    return worker, assignment, update_for(assignment, "worker-0", initial_of(recipe), 0.5)


async def send_half(running: Running, encoded: EncodedUpdate) -> Any:
    """An upload that has sent half of its chunks and sends no more."""
    payload = encoded.payload
    pieces = list(chunks(lambda at, n: payload[at : at + n], len(payload)))
    call = running.federation.Upload()
    await call.write(pb.UploadRequest(header=encoded.header))
    assert (await call.read()).ready.offset_bytes == 0
    for piece in pieces[: len(pieces) // 2]:
        await call.write(pb.UploadRequest(chunk=piece))
    return call


async def test_upload_whose_bytes_stop_is_ended_though_heartbeats_go_on(tmp_path: Path) -> None:
    settings = {"heartbeat_s": STALL_S, "stall_s": STALL_S}
    async with running_coordinator(tmp_path, **settings) as running:
        run_id = await running.submit(recipe_of(HIDDEN))
        worker, _, encoded = await worker_with_update(running)

        async def beat() -> None:
            while True:
                await worker.send(heartbeat=pb.Heartbeat())
                await asyncio.sleep(STALL_S / 2)

        heart = asyncio.create_task(beat())
        try:
            call = await send_half(running, encoded)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(call.read(), PATIENCE_S)
            assert error_of(caught.value).code == "TIMED_OUT"
            assert running.coordinator.fleet.connected == {"worker-0"}

            # Nobody else was asked meanwhile, and what came is kept.
            again = running.federation.Upload()
            await again.write(pb.UploadRequest(header=encoded.header))
            assert (await again.read()).ready.offset_bytes > 0
            again.cancel()
            assert not (await worker.upload(encoded)).duplicate
            assert (await running.finished(run_id)).code == ""
        finally:
            heart.cancel()
            await asyncio.gather(heart, return_exceptions=True)


async def test_download_that_nobody_reads_is_ended(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path, stall_s=STALL_S) as running:
        recipe = recipe_of([2500, 2200])
        await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        request = pb.DownloadRequest(digest=assignment.base_digest)
        call = running.federation.Download(request)
        received = len((await call.read()).chunk.data)
        await asyncio.sleep(3 * STALL_S)  # the stall

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while (response := await call.read()) is not grpc.aio.EOF:
                received += len(response.chunk.data)
        assert error_of(caught.value).code == "TIMED_OUT"
        assert received < assignment.base_bytes
        assert len(await worker.download(assignment)) == assignment.base_bytes
