"""Uploads that no good worker sends: refused with a code and a reason, counted; the run goes on."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
import urllib.request
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_updates import (
    BAD_HEADERS,
    BAD_PAYLOADS,
    DEFLATED,
    INT8,
    PAYLOADS_THAT_ARE_FINE,
    STC,
    TOPK,
    Bad,
    copied,
    flipped,
    int8,
    raw_deflate,
    sealed,
    segment,
)
from harness import (
    Running,
    ScriptedWorker,
    digits_recipe,
    free_port,
    initial_of,
    raises_code,
    running_coordinator,
    update_for,
)
from prometheus_client.parser import text_string_to_metric_families

from fedfleet.errors import FedFleetError
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.types import ModelState
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2 as types_pb
from fedfleet.wire.codec_steps import steps_to_messages
from fedfleet.wire.limits import CHUNK_BYTES, MAX_MESSAGE_BYTES
from fedfleet.wire.spare import spare_small
from fedfleet.wire.updates import EncodedUpdate

MORE = """
min_workers = 2
attempts = 2
[evaluation]
coordinator = false
[wire]
uplink = "{uplink}"
"""
PIECE_BYTES = 1000


# A round


class Round:
    """A run of one round in which two workers wait and one was asked."""

    def __init__(self, running: Running, run_id: str, recipe: str, ops_port: int) -> None:
        self.running = running
        self.run_id = run_id
        self._ops_port = ops_port
        self._state: ModelState = initial_of(recipe)
        self._chain = spare_small(parse_recipe(recipe).wire.uplink_chain, self._state.schema)
        self.workers = {name: ScriptedWorker(running, name) for name in ("worker-0", "worker-1")}

    async def first(self) -> ScriptedWorker:
        """The worker that was drawn."""
        for worker in self.workers.values():
            await worker.connect()
        event = await self.running.until(self.run_id, "cohort_selected")
        [name] = json.loads(event.fields_json)["workers"]
        return self.workers[name]

    def other(self, worker: ScriptedWorker) -> ScriptedWorker:
        [other] = set(self.workers.values()) - {worker}
        return other

    def update(self, worker: ScriptedWorker, assignment: pb.Assignment) -> EncodedUpdate:
        """An update that is right in everything."""
        plain = update_for(assignment, worker.worker_id, self._state, 0.0)
        delta_P = np.random.default_rng(1).normal(0, 0.01, self._state.trainable.size)
        encoded = self._chain.encode(delta_P.astype(np.float32), seed=1)
        del plain.header.sections[0].codec[:]
        plain.header.sections[0].codec.extend(steps_to_messages(encoded.steps))
        return sealed(plain, bytes(encoded.data))

    async def finish(self, *refused: FedFleetError) -> None:
        """The run completes with one update, and these refusals were told and counted."""
        run = await self.running.finished(self.run_id)
        assert (run.code, run.round) == ("", 1), run.reason
        [shown] = (await self.running.show(self.run_id)).rounds
        assert shown.updates == 1
        for error in refused:
            assert error.message
            assert "\n" not in error.message
        told = [("code", error.code) for error in refused]
        results = [("result", "refused")] * len(refused)
        counted = await asyncio.to_thread(self._counted)
        assert counted == Counter([*told, *results, ("result", "accepted")])

    def _counted(self) -> dict[tuple[str, str], int]:
        """What the coordinator's /metrics says of updates, without zeros."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ops_port}/metrics") as answer:
            text = answer.read().decode()
        samples = {
            (sample.name, *sample.labels.items()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert samples["fedfleet_coordinator_upload_in_flight_bytes",] == 0
        names = ("fedfleet_coordinator_updates_total", "fedfleet_coordinator_update_refusals_total")
        return {key[1]: int(n) for key, n in samples.items() if key[0] in names and n}


@asynccontextmanager
async def one_round(
    folder: Path, uplink: str, hidden: Sequence[int] = (40,)
) -> AsyncIterator[Round]:
    recipe = digits_recipe("bad", hidden=hidden, cohort=1, more=MORE.format(uplink=uplink))
    ops_port = free_port()
    async with running_coordinator(folder, ops_port=ops_port) as running:
        yield Round(running, await running.submit(recipe), recipe, ops_port)


def pieces_of(data: bytes) -> list[types_pb.Chunk]:
    """Chunks that are small enough for there to be several."""
    return [
        types_pb.Chunk(offset_bytes=at, data=piece, crc32=zlib.crc32(piece))
        for at in range(0, len(data), PIECE_BYTES)
        for piece in [data[at : at + PIECE_BYTES]]
    ]


@pytest.mark.parametrize(("uplink", "data"), PAYLOADS_THAT_ARE_FINE)
async def test_payload_made_here_without_a_flaw_is_accepted(
    uplink: str, data: bytes, tmp_path: Path
) -> None:
    async with one_round(tmp_path, uplink) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        assert not (await worker.upload(sealed(update, data))).duplicate
        await going.finish()


@pytest.mark.parametrize("bad", [*BAD_PAYLOADS, *BAD_HEADERS], ids=str)
async def test_bad_update_is_refused_and_another_worker_completes_the_round(
    bad: Bad, tmp_path: Path
) -> None:
    async with one_round(tmp_path, bad.uplink) as going:
        worker = await going.first()
        assignment = await worker.assignment()
        update = bad.make(going.update(worker, assignment))

        error = await raises_code(bad.code, worker.upload(update))

        assert bad.says in error.message
        failed = await going.running.until(going.run_id, "assignment_failed")
        fields = json.loads(failed.fields_json)
        assert fields["assignment_id"] == assignment.assignment_id
        assert (fields["code"], fields["reason"]) == (bad.code, error.message)
        other = going.other(worker)
        await other.upload(going.update(other, await other.assignment()))
        await going.finish(error)
        assert kept_of(update.header.payload_digest, tmp_path) == []


async def test_update_of_a_run_that_is_not_active_is_refused_and_counted(tmp_path: Path) -> None:
    async with one_round(tmp_path, INT8) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        stray = copied(update)
        stray.header.run_id = "r-000000000000"

        error = await raises_code("ASSIGNMENT_CLOSED", worker.upload(stray))

        assert "run r-000000000000 is not active" in error.message
        assert not (await worker.upload(update)).duplicate
        await going.finish(error)


# Chunks and digests: the same worker may send the same update better.


def swapped(pieces: list[types_pb.Chunk]) -> list[types_pb.Chunk]:
    return [pieces[0], pieces[2], pieces[1], *pieces[3:]]


def changed_piece(number: int, **fields: Any) -> Callable[[list[types_pb.Chunk]], Any]:
    def change(pieces: list[types_pb.Chunk]) -> list[types_pb.Chunk]:
        for name, value in fields.items():
            setattr(pieces[number], name, value)
        if "crc32" not in fields:
            pieces[number].crc32 = zlib.crc32(pieces[number].data)
        return pieces

    return change


BAD_CHUNKS = {
    "reordered": (swapped, "TRANSFER_INVALID", "a chunk at byte 2000, expected the one at 1000"),
    "duplicated": (lambda p: [p[0], *p], "TRANSFER_INVALID", "byte 0, expected the one at 1000"),
    "left out": (lambda p: [p[0], *p[2:]], "TRANSFER_INVALID", "expected the one at 1000"),
    "truncated": (lambda p: p[:-1], "TRANSFER_INVALID", "the upload ended at byte 3000 of 3058"),
    "none": (lambda p: [], "TRANSFER_INVALID", "the upload ended at byte 0 of 3058"),
    "empty": (changed_piece(1, data=b""), "TRANSFER_INVALID", "a chunk of 0 bytes"),
    "oversized": (changed_piece(1, data=bytes(CHUNK_BYTES + 1)), "TRANSFER_INVALID", "1048577"),
    "beyond the end": (changed_piece(3, data=bytes(59)), "TRANSFER_INVALID", "more than the"),
    "offset of 2^63": (changed_piece(1, offset_bytes=1 << 63), "TRANSFER_INVALID", "expected"),
    "damaged": (changed_piece(1, crc32=1), "CHECKSUM_MISMATCH", "the chunk at byte 1000"),
    "other bytes": (changed_piece(1, data=bytes(1000)), "CHECKSUM_MISMATCH", "was announced"),
}


@pytest.mark.parametrize("fault", BAD_CHUNKS)
async def test_bad_chunks_are_refused_and_the_same_worker_sends_them_better(
    fault: str, tmp_path: Path
) -> None:
    change, code, says = BAD_CHUNKS[fault]
    async with one_round(tmp_path, INT8) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        pieces = change(pieces_of(update.payload))

        error = await raises_code(code, worker.upload_raw(update.header, pieces))

        assert says in error.message
        assert error.retryable == (code == "CHECKSUM_MISMATCH")
        receipt = await worker.upload_raw(update.header, pieces_of(update.payload))
        assert not receipt.duplicate
        await going.finish(error)


async def test_wrong_digest_is_refused_and_the_same_worker_sends_the_right_one(
    tmp_path: Path,
) -> None:
    async with one_round(tmp_path, TOPK) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        wrong = copied(update)
        wrong.header.payload_digest = "0" * 64

        error = await raises_code("CHECKSUM_MISMATCH", worker.upload(wrong))

        assert f"{'0' * 64} was announced" in error.message
        assert not (await worker.upload(update)).duplicate
        await going.finish(error)
        assert kept_of(wrong.header.payload_digest, tmp_path) == []


async def test_beginning_that_was_spoiled_is_not_resumed_for_ever(tmp_path: Path) -> None:
    async with one_round(tmp_path, INT8) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        good = pieces_of(update.payload)
        spoiled = pieces_of(flipped(update.payload[:PIECE_BYTES]))

        cut = await raises_code("TRANSFER_INVALID", worker.upload_raw(update.header, spoiled))
        found = await raises_code("CHECKSUM_MISMATCH", worker.upload_raw(update.header, good[1:]))

        assert not (await worker.upload_raw(update.header, good)).duplicate
        await going.finish(cut, found)


async def test_message_that_grpc_refuses_ends_the_upload_and_the_same_worker_goes_on(
    tmp_path: Path,
) -> None:
    async with one_round(tmp_path, INT8) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        pieces = changed_piece(1, data=bytes(MAX_MESSAGE_BYTES))(pieces_of(update.payload))

        # Dropped before it is read, so the coordinator has nothing to give a code to or to count.
        with pytest.raises(FedFleetError):
            await worker.upload_raw(update.header, pieces)

        receipt = await worker.upload_raw(update.header, pieces_of(update.payload))
        assert not receipt.duplicate
        await going.finish()


def kept_of(digest: str, folder: Path) -> list[Path]:
    """Files with these bytes, whole or not."""
    return [path for path in folder.rglob("*") if path.name.startswith(digest)]


# Memory


@pytest.mark.parametrize("bombs", ["first", "last", "all"])
async def test_bomb_takes_no_memory(bombs: str, tmp_path: Path) -> None:
    hidden, elements, block = (600, 600), 64 * 600 + 600 + 600 * 601 + 6010, 1 << 15
    sizes = [min(block, elements - at) for at in range(0, elements, block)]
    bomb = raw_deflate(bytes(30 << 20))
    parts = [segment(int8(n)) for n in sizes]
    if bombs == "all":
        parts = [segment(bomb)] * len(sizes)
    else:
        parts[0 if bombs == "first" else -2] = segment(bomb)
    async with one_round(tmp_path, DEFLATED, hidden) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        bad = sealed(update, b"".join(parts))

        with peak_below(4 << 20):
            error = await raises_code("UPDATE_INVALID", worker.upload(bad))

        assert "do not come to 33280 bytes" in error.message
        other = going.other(worker)
        await other.upload(going.update(other, await other.assignment()))
        await going.finish(error)


@pytest.mark.parametrize("field", ["elements", "encoded_bytes", "payload_bytes", "all three"])
@pytest.mark.parametrize("uplink", [TOPK, INT8, DEFLATED, STC])
async def test_announced_terabytes_take_no_memory_and_no_disk(
    field: str, uplink: str, tmp_path: Path
) -> None:
    async with one_round(tmp_path, uplink) as going:
        worker = await going.first()
        update = going.update(worker, await worker.assignment())
        bad = copied(update)
        terabytes = 5 << 40
        if field in ("elements", "all three"):
            bad.header.sections[0].elements = terabytes
        if field in ("encoded_bytes", "all three"):
            bad.header.sections[0].encoded_bytes = terabytes
        if field in ("payload_bytes", "all three"):
            bad.header.payload_bytes = terabytes
        before = disk_bytes(tmp_path)

        with peak_below(1 << 20):
            error = await raises_code("UPDATE_INVALID", worker.upload(bad))

        assert disk_bytes(tmp_path) < before + (1 << 20)
        other = going.other(worker)
        await other.upload(going.update(other, await other.assignment()))
        await going.finish(error)


@contextmanager
def peak_below(most_bytes: int) -> Iterator[None]:
    """Watch what this process (coordinator and scripted worker) allocates."""
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < most_bytes


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
