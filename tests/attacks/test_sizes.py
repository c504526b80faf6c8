"""Messages that announce, or are, more than can be: refused before memory or disk is taken."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from attacks.coordinator import coordinator_process, honest_beside
from attacks.hostile import peak_bytes
from attacks.siege import MALLORY, besieged, refused, stored
from harness import PATIENCE_S, ScriptedWorker

from fedfleet.identity.names import TARGET_NAME
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.tls import channel_credentials, name_options
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2
from fedfleet.wire.limits import CHUNK_BYTES, MAX_REQUEST_BYTES

TERABYTE = 1 << 40
# What the largest message may take of the coordinator's memory for a moment.
MOST_BYTES = 128 << 20


def announced(**fields: Any) -> Callable[[pb.UpdateHeader], None]:
    def change(header: pb.UpdateHeader) -> None:
        for name, value in fields.items():
            owner = header if name == "payload_bytes" else header.sections[0]
            setattr(owner, name, value)

    return change


def many_sections(header: pb.UpdateHeader) -> None:
    for number in range(1000):
        header.sections.add(name=f"more-{number}", elements=1 << 62, encoded_bytes=1 << 62)


ANNOUNCED = {
    "payload of 1 TB": (announced(payload_bytes=TERABYTE), "UPDATE_INVALID"),
    "payload of 2^64 bytes": (announced(payload_bytes=(1 << 64) - 1), "UPDATE_INVALID"),
    "section of 1 TB": (announced(encoded_bytes=TERABYTE), "UPDATE_INVALID"),
    "all of 1 TB": (announced(encoded_bytes=TERABYTE, payload_bytes=TERABYTE), "UPDATE_INVALID"),
    "2^64 elements": (announced(elements=(1 << 64) - 1), "UPDATE_INVALID"),
    "1 TB of elements": (
        announced(elements=TERABYTE // 4, encoded_bytes=TERABYTE, payload_bytes=TERABYTE),
        "UPDATE_INVALID",
    ),
    "1000 sections": (many_sections, "LIMIT_EXCEEDED"),
    "5000 metrics": (
        lambda h: h.metrics.update({f"m{n}": 1.0 for n in range(5000)}),
        "LIMIT_EXCEEDED",
    ),
    "a metric's name of 1 MB": (lambda h: h.metrics.update({"m" * 10**6: 1.0}), "LIMIT_EXCEEDED"),
    "a level of 1 MB": (lambda h: setattr(h, "level", "a" * 10**6), "UPDATE_INVALID"),
    "a section's name of 1 MB": (
        lambda h: setattr(h.sections[0], "name", "s" * 10**6),
        "LIMIT_EXCEEDED",
    ),
    "a digest of 1 MB": (lambda h: setattr(h, "payload_digest", "0" * 10**6), "INVALID_INPUT"),
    "an assignment of 1 MB": (
        lambda h: setattr(h, "assignment_id", "x" * 10**6 + f"/{MALLORY}"),
        "ASSIGNMENT_CLOSED",
    ),
    "a run of 1 MB": (lambda h: setattr(h, "run_id", "x" * 10**6), "ASSIGNMENT_CLOSED"),
    "a schema of 1 MB": (lambda h: setattr(h, "schema_digest", "x" * 10**6), "SCHEMA_MISMATCH"),
}


@pytest.mark.parametrize("name", ANNOUNCED)
async def test_header_that_announces_too_much_is_refused_at_once(name: str, tmp_path: Path) -> None:
    change, code = ANNOUNCED[name]
    async with besieged(tmp_path) as siege:
        before = stored(tmp_path)
        update = siege.update(siege.given, MALLORY)
        change(update.header)

        error = await refused(code, siege.mallory.upload(update))

        assert len(error.message) < 500
        assert stored(tmp_path) == before
        assert list((tmp_path / "partial").iterdir()) == []
        assert max(map(len, siege.log)) < 5000
        await siege.holds()


async def test_more_or_other_chunks_than_were_announced_are_refused(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        update = siege.update(siege.given, MALLORY)
        data = update.payload

        def chunk(offset: int, piece: bytes) -> types_pb2.Chunk:
            return types_pb2.Chunk(offset_bytes=offset, data=piece, crc32=zlib.crc32(piece))

        whole = chunk(0, data)
        for pieces in (
            [chunk(0, data + b"x")],
            [chunk(0, data[:-1]), chunk(len(data) - 1, bytes(1 << 16))],
            [chunk(0, bytes(CHUNK_BYTES))],
            [chunk(TERABYTE, data)],
            [chunk((1 << 64) - 1, data)],
            [chunk(0, b"")],
            [chunk(0, data[:-1]), *[chunk(0, data[:-1])] * 100],
        ):
            await refused("TRANSFER_INVALID", siege.mallory.upload_raw(update.header, pieces))
        # What comes behind a receipt is not read: it counted, once, with what was announced.
        assert siege.running.store.journal.updates(siege.run_id, 1) == []
        await siege.holds()
        late = siege.mallory.upload_raw(update.header, [whole] * 100)
        await refused("ASSIGNMENT_CLOSED", late)


async def test_uploads_cut_short_under_ever_new_digests_leave_one_file(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        update = siege.update(siege.given, MALLORY)
        beginning = update.payload[:-1]
        piece = types_pb2.Chunk(data=beginning, crc32=zlib.crc32(beginning))
        for number in range(30):
            update.header.payload_digest = f"{number:064x}"
            await refused("TRANSFER_INVALID", siege.mallory.upload_raw(update.header, [piece]))

        assert len(list((tmp_path / "partial").iterdir())) == 1
        await siege.holds()


LONG = "x" * 10**6
HELLOS = {
    "5000 tags": {"tags": [f"tag-{number}" for number in range(5000)]},
    "a tag of 1 MB": {"tags": [LONG]},
    "5000 assignments held": {"held": [f"r-0/1/1/train/{number}" for number in range(5000)]},
    "a release of 1 MB": {"software_version": LONG},
    "a machine of 1 MB": {"device": pb.DeviceProfile(machine=LONG)},
    "an accelerator of 1 MB": {"device": pb.DeviceProfile(accelerator=LONG)},
    "a system of 1 MB": {"device": pb.DeviceProfile(os=LONG)},
    "5000 levels": {"device": pb.DeviceProfile(levels=[pb.LevelSpeed(level="a")] * 5000)},
    "a level of 1 MB": {"device": pb.DeviceProfile(levels=[pb.LevelSpeed(level=LONG)])},
    "a digest of 1 MB": {"device": pb.DeviceProfile(levels=[pb.LevelSpeed(model_digest=LONG)])},
}


async def test_hello_that_says_too_much_is_refused_and_nothing_of_it_is_kept(
    tmp_path: Path,
) -> None:
    async with besieged(tmp_path) as siege:
        for hello in HELLOS.values():
            await refused("LIMIT_EXCEEDED", ScriptedWorker(siege.insider, MALLORY).connect(**hello))

        listed = await siege.running.control.ListWorkers(control_pb.ListWorkersRequest())
        assert listed.ByteSize() < 2000
        await siege.holds()


async def test_long_texts_on_a_stream_are_cut_or_end_it(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        await siege.mallory.send(heartbeat=pb.Heartbeat(pause_reason=LONG))
        await siege.mallory.send(progress=pb.AssignmentProgress(assignment_id=f"{LONG}/{MALLORY}"))
        failure = pb.AssignmentFailure(
            assignment_id=siege.given.assignment_id, code=LONG[:10_000], message=LONG
        )
        await siege.mallory.send(failure=failure)
        levels = [pb.LevelSpeed(level="a")] * 5000
        await siege.mallory.send(heartbeat=pb.Heartbeat(levels=levels))
        await refused("LIMIT_EXCEEDED", siege.mallory.assignment())

        listed = await siege.running.control.ListWorkers(control_pb.ListWorkersRequest())
        assert listed.ByteSize() < 5000
        entries = siege.running.store.journal.entries(siege.run_id)
        assert max(len(str(dict(entry.fields))) for entry in entries) < 5000
        await siege.holds()


@pytest.mark.parametrize(
    ("size", "code"),
    [(70_000, "RECIPE_INVALID"), (1_500_000, "RECIPE_INVALID"), (10_000_000, "LIMIT_EXCEEDED")],
)
async def test_recipe_that_is_too_large_is_refused(size: int, code: str, tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        recipe = siege.recipe + "#" * size
        request = control_pb.SubmitRunRequest(recipe=recipe)

        await refused(code, siege.running.control.SubmitRun(request, timeout=30))

        assert len(siege.running.store.journal.runs()) == 1
        assert max(len(str(record)) for record in siege.running.store.audit.records()) < 2000
        await siege.holds()


async def test_messages_above_the_limit_are_dropped_by_the_connection(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        address, shown = siege.running.address, channel_credentials(siege.insider.credentials)
        options = (*name_options(TARGET_NAME), ("grpc.max_send_message_length", -1))
        async with grpc.aio.secure_channel(address, shown, options) as channel:
            for method in ("FederationService/Connect", "FederationService/Upload"):
                call = channel.unary_unary(f"/fedfleet.v1.{method}")
                await refused("LIMIT_EXCEEDED", call(bytes(MAX_REQUEST_BYTES + 1), timeout=30))
        await siege.holds()


async def test_message_of_millions_of_empty_parts_takes_little_memory(tmp_path: Path) -> None:
    """Two bytes on the wire are a part of a message, which takes seventy in memory."""
    part = b"\x5a\x00"  # field 11, UpdateHeader.sections, of no bytes
    header = pb.UpdateHeader(assignment_id=f"r-0/1/1/train/{MALLORY}", worker_id=MALLORY)
    data = header.SerializeToString() + part * ((MAX_REQUEST_BYTES - 1000) // len(part))
    length = bytearray()
    size = len(data)
    while size:  # a varint
        length.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
    request = b"\x0a" + bytes(length) + data  # field 1, UploadRequest.header
    with coordinator_process(tmp_path) as process:
        async with honest_beside(process) as field:
            before, insider = process.memory_bytes(), field.insider
            async with open_channel(insider.address, credentials=insider.credentials) as channel:
                call = channel.unary_unary("/fedfleet.v1.FederationService/Upload")
                with pytest.raises(grpc.aio.AioRpcError):
                    await call(request, timeout=PATIENCE_S)
        assert peak_bytes(process.pid) - before < MOST_BYTES
