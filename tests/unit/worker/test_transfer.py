from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scripted_coordinator import Scripted, ready, receipt, scripted_coordinator
from worker_updates import keep_update

from fedfleet.errors import ChecksumMismatch, TimedOut, TransferInvalid, Unavailable
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.chunks import chunks
from fedfleet.wire.limits import CHUNK_BYTES
from fedfleet_worker import transfer
from fedfleet_worker.links import Links
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.transfer import Download, Upload

BLOB = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(BLOB).hexdigest()


def cut_after(coordinator: Scripted, pieces: int) -> list[int]:
    """Let every download end after so many chunks; returns where each began."""
    begun: list[int] = []

    async def download(request: pb.DownloadRequest) -> AsyncIterator[pb.DownloadResponse]:
        begun.append(request.offset_bytes)
        left = pieces
        for chunk in chunks(lambda at, n: BLOB[at : at + n], len(BLOB), request.offset_bytes):
            if left == 0:
                raise Unavailable("cut")
            left -= 1
            yield pb.DownloadResponse(chunk=chunk, total_bytes=len(BLOB))

    coordinator.download = download
    return begun


async def test_download_goes_on_where_the_last_attempt_was_cut() -> None:
    async with scripted_coordinator() as coordinator:
        begun = cut_after(coordinator, pieces=5)
        download = Download(DIGEST, len(BLOB), "w", WorkerMetrics())
        data, ended = b"", [0]
        while not data:
            try:
                data = await download.run(coordinator.stub)
            except Unavailable:
                ended.append(download.offset_bytes)

    assert data == BLOB
    assert begun == ended
    assert len(begun) > 2
    assert begun == sorted(set(begun))


async def test_download_that_was_damaged_begins_anew() -> None:
    # As long as the right one, and cut at the same places.
    damaged = BLOB[:-1] + bytes([BLOB[-1] ^ 1])
    async with scripted_coordinator() as coordinator:
        coordinator.blobs[DIGEST] = damaged
        download = Download(DIGEST, len(BLOB), "w", WorkerMetrics())
        with pytest.raises(ChecksumMismatch):
            await download.run(coordinator.stub)
        assert download.offset_bytes == 0
        coordinator.blobs[DIGEST] = BLOB

        assert await download.run(coordinator.stub) == BLOB


async def test_download_that_stalls_is_given_up_and_keeps_what_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stall(request: pb.DownloadRequest) -> AsyncIterator[pb.DownloadResponse]:
        first = next(chunks(lambda at, n: BLOB[at : at + n], len(BLOB)))
        yield pb.DownloadResponse(chunk=first, total_bytes=len(BLOB))
        await asyncio.Event().wait()

    monkeypatch.setattr(transfer, "STALL_S", 0.2)
    async with scripted_coordinator() as coordinator:
        coordinator.download = stall
        download = Download(DIGEST, len(BLOB), "w", WorkerMetrics())
        with pytest.raises(TimedOut):
            await download.run(coordinator.stub)
        assert download.offset_bytes > 0


async def test_upload_sends_no_byte_before_the_offset_that_is_asked_for(tmp_path: Path) -> None:
    update = keep_update(tmp_path, values=CHUNK_BYTES)
    start = 3 * CHUNK_BYTES + 5
    received: list[tuple[int, int]] = []

    async def take(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(start)
        async for request in requests:
            chunk = request.chunk
            received.append((chunk.offset_bytes, len(chunk.data)))
        yield receipt(header)

    async with scripted_coordinator() as coordinator:
        coordinator.upload = take
        upload = Upload(update, WorkerMetrics())
        await upload.run(coordinator.stub)

    assert upload.offset_bytes == start
    assert received[0][0] == start
    assert sum(size for _, size in received) == update.header.payload_bytes - start


async def test_upload_whose_coordinator_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(0)
        await asyncio.Event().wait()

    monkeypatch.setattr(transfer, "STALL_S", 0.2)
    async with scripted_coordinator() as coordinator:
        coordinator.upload = silent
        with pytest.raises(TimedOut):
            await Upload(keep_update(tmp_path, CHUNK_BYTES), WorkerMetrics()).run(coordinator.stub)


async def test_upload_that_is_told_twice_where_to_begin_is_an_error(tmp_path: Path) -> None:
    async def twice(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(0)
        yield ready(0)

    async with scripted_coordinator() as coordinator:
        coordinator.upload = twice
        with pytest.raises(TransferInvalid, match="twice"):
            await Upload(keep_update(tmp_path, 5), WorkerMetrics()).run(coordinator.stub)


async def test_transfers_measure_the_link(tmp_path: Path) -> None:
    async def take(
        header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncIterator[pb.UploadResponse]:
        yield ready(0)
        moved = 0
        async for request in requests:
            moved += len(request.chunk.data)
            if moved == header.payload_bytes:
                break
        yield receipt(header)

    links, small = Links(), Links()
    async with scripted_coordinator() as coordinator:
        coordinator.upload = take
        coordinator.blobs[DIGEST] = BLOB
        began_s = time.monotonic()
        await Download(DIGEST, len(BLOB), "w", WorkerMetrics(), links).run(coordinator.stub)
        await Upload(keep_update(tmp_path / "large", 1 << 18), WorkerMetrics(), links).run(
            coordinator.stub
        )
        took_s = time.monotonic() - began_s
        await Upload(keep_update(tmp_path / "small"), WorkerMetrics(), small).run(coordinator.stub)

    assert links.down.bytes_per_s >= len(BLOB) / took_s
    assert links.up.bytes_per_s >= (1 << 20) / took_s
    assert small.up.bytes_per_s == 0
