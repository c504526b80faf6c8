"""Connections that are cut in the middle of an upload: little is sent again, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest
from harness import PATIENCE_S, ScriptedWorker, initial_of, running_coordinator, update_for
from links.relay import CuttingRelay, cutting_relay
from links.services import (
    coordinator_process,
    logged,
    recipe_of,
    result_of,
    worker_process,
)

from fedfleet.errors import Unavailable
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.channel import open_channel
from fedfleet.sim.driver import simulate
from fedfleet.v1.federation_service_pb2_grpc import FederationServiceStub
from fedfleet.wire.limits import CHUNK_BYTES
from fedfleet_worker.disk import Disk
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.transfer import Upload

CUTS = 20
# What gRPC and HTTP/2 add: headers for a connection, nine bytes for a frame of 16 KiB.
CONNECTION_BYTES, FRAMING = 4096, 1.002
# 23 MB: every cut has a chunk of the largest size to spoil.
HIDDEN = [2500, 2200]


def cuts_in(payload_bytes: int, seed: int) -> list[int]:
    return sorted(random.Random(seed).sample(range(2000, payload_bytes), CUTS))


@pytest.mark.slow
async def test_upload_that_is_cut_20_times_sends_at_most_one_chunk_again_per_cut(
    tmp_path: Path,
) -> None:
    recipe = recipe_of(HIDDEN)
    payload_bytes = initial_of(recipe).trainable.nbytes
    async with (
        coordinator_process(tmp_path) as remote,
        cutting_relay(remote.port, cuts_in(payload_bytes, seed=1)) as relay,
    ):
        with worker_process(tmp_path, relay.address, "worker-0"):
            run = await remote.finished(await remote.submit(recipe))

    assert (run.code, run.reason) == ("", "")
    assert relay.cuts_done == CUTS
    assert len(logged(tmp_path, "worker-0", "transfer_interrupted")) >= CUTS - 1
    again = relay.relayed_bytes - FRAMING * payload_bytes - CUTS * CONNECTION_BYTES
    assert again <= CUTS * CHUNK_BYTES
    reference = simulate(parse_recipe(recipe)).state
    assert result_of(tmp_path).trainable.tobytes() == reference.trainable.tobytes()


async def test_no_cut_costs_more_than_one_chunk(tmp_path: Path) -> None:
    recipe = recipe_of(HIDDEN)
    async with running_coordinator(tmp_path / "coordinator") as running:
        run_id = await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        encoded = update_for(await worker.assignment(), "worker-0", initial_of(recipe), 0.5)
        upload = Upload(Disk(tmp_path / "worker").keep(encoded, {}), WorkerMetrics())
        async with cutting_relay(running.coordinator.port, []) as relay:
            losses = await deliver_with_cuts(upload, relay, random.Random(2))
        run = await running.finished(run_id)

    assert run.code == ""
    assert len(losses) >= CUTS
    assert max(losses) <= CHUNK_BYTES


async def deliver_with_cuts(
    upload: Upload, relay: CuttingRelay, draws: random.Random
) -> list[float]:
    """Upload with a cut in each of the first attempts; what each cut cost, in bytes."""
    receipt, losses = None, []
    begun_at, sent = 0, 0.0  # of the last attempt that was told where to begin
    async with open_channel(relay.address) as channel:
        stub = FederationServiceStub(channel)
        for attempt in range(4 * CUTS):
            await asyncio.wait_for(channel.channel_ready(), PATIENCE_S)
            before = relay.relayed_bytes
            if attempt < CUTS:
                relay.cut_at(before + draws.randrange(2000, 2 * CHUNK_BYTES))
            upload.offset_bytes = -1
            with contextlib.suppress(Unavailable):
                receipt = await upload.run(stub)
            moved = (relay.relayed_bytes - before) / FRAMING - CONNECTION_BYTES
            if upload.offset_bytes < 0:
                continue
            losses.append(begun_at + sent - upload.offset_bytes)
            begun_at, sent = upload.offset_bytes, moved
            if receipt is not None:
                return losses
    raise AssertionError("the upload did not come through")
