"""Moves big bytes between worker and coordinator, from where the last attempt stopped."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from fedfleet.errors import ChecksumMismatch, FedFleetError, TimedOut, TransferInvalid
from fedfleet.rpc.patience import within
from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.chunks import check_chunk, chunks
from fedfleet.wire.limits import STALL_S
from fedfleet_worker.disk import Finished
from fedfleet_worker.links import Links
from fedfleet_worker.metrics import WorkerMetrics

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

T_co = TypeVar("T_co", covariant=True)


class Transfer(Protocol[T_co]):
    """Bytes that move, in as many attempts as that takes."""

    @property
    def offset_bytes(self) -> int:
        """How far the transfer had come when it was last known."""

    async def run(self, stub: FederationServiceAsyncStub) -> T_co:
        """Make one attempt."""


class Download:
    """One blob being received; what came stays over attempts."""

    def __init__(
        self,
        digest: str,
        size_bytes: int,
        worker_id: str,
        metrics: WorkerMetrics,
        links: Links | None = None,
    ) -> None:
        self._links = links or Links()
        self._worker_id = worker_id
        self._digest = digest
        self._size_bytes = size_bytes
        self._metrics = metrics
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._data = io.BytesIO()
        self._sha256 = hashlib.sha256()

    @property
    def offset_bytes(self) -> int:
        """Bytes that came and are kept."""
        return self._data.tell()

    async def run(self, stub: FederationServiceAsyncStub) -> bytes:
        """Receive the rest, check it, return all of it.

        Raises:
            Unavailable, TimedOut: try again, it goes on where it stopped.
            NotFound: the coordinator has no such blob any more.
            ChecksumMismatch: damaged; the next attempt begins anew.
        """
        request = pb.DownloadRequest(
            digest=self._digest, offset_bytes=self.offset_bytes, worker_id=self._worker_id
        )
        began_s, began_at = time.monotonic(), self.offset_bytes
        call = stub.Download(request)
        try:
            responses = call.__aiter__()
            while self.offset_bytes < self._size_bytes:
                response = await within(STALL_S, responses.__anext__())
                data = check_chunk(response.chunk, self.offset_bytes, self._size_bytes)
                self._metrics.bytes.labels("down").inc(len(data))
                # Hashed as it comes: all of a version at once would hold the heartbeats up.
                self._sha256.update(data)
                self._data.write(data)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except StopAsyncIteration as error:
            raise TransferInvalid(f"the download ended at byte {self.offset_bytes}") from error
        except asyncio.TimeoutError as error:
            raise TimedOut(f"no byte came for {STALL_S:g} s") from error
        finally:
            call.cancel()
        self._links.down.note(self.offset_bytes - began_at, time.monotonic() - began_s)
        if self._sha256.hexdigest() != self._digest:
            self._begin_anew()
            raise ChecksumMismatch("the version's bytes are not those of its digest")
        return self._data.getvalue()  # the buffer itself, no copy


class Upload:
    """One finished update being delivered; the coordinator keeps what came over attempts."""

    def __init__(
        self, update: Finished, metrics: WorkerMetrics, links: Links | None = None
    ) -> None:
        self._update = update
        self._links = links or Links()
        self._metrics = metrics
        self._start: asyncio.Future[int]
        self._moved = 0
        self._unreadable: FedFleetError | None = None
        self.offset_bytes = 0

    async def run(self, stub: FederationServiceAsyncStub) -> pb.Receipt:
        """Send from where the coordinator asks for, until the receipt.

        Raises:
            TransferInvalid: the update cannot be read from the disk, or as the coordinator says.
            FedFleetError: as the coordinator says; retryable ones go on where this one stopped.
        """
        self._start = asyncio.get_running_loop().create_future()
        began_s, moved = time.monotonic(), self._moved
        self._unreadable = None
        call = stub.Upload(self._requests())
        try:
            responses = call.__aiter__()
            while True:
                response = await self._next(responses)
                if response.WhichOneof("message") == "receipt":
                    self._links.up.note(self._moved - moved, time.monotonic() - began_s)
                    return response.receipt
                if self._start.done():
                    raise TransferInvalid("the coordinator said twice where to begin")
                self.offset_bytes = response.ready.offset_bytes
                self._start.set_result(self.offset_bytes)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except StopAsyncIteration as error:
            raise TransferInvalid("the upload ended without a receipt") from error
        finally:
            call.cancel()
            # The sending side waits for it when the coordinator asked for no bytes.
            self._start.cancel()

    async def _next(self, responses: AsyncIterator[pb.UploadResponse]) -> pb.UploadResponse:
        """The next response, as long as chunks move or the wait for an answer is short."""
        task = asyncio.ensure_future(responses.__anext__())
        try:
            while True:
                before = self._moved
                done, _ = await asyncio.wait([task], timeout=STALL_S)
                if self._unreadable is not None:
                    raise TransferInvalid(
                        f"the update cannot be read from this device: {self._unreadable.message}",
                        detail=self._unreadable.detail,
                    ) from self._unreadable
                if done:
                    return task.result()
                if self._moved == before:
                    raise TimedOut(f"no byte moved for {STALL_S:g} s")
        finally:
            task.cancel()

    async def _requests(self) -> AsyncIterator[pb.UploadRequest]:
        header = self._update.header
        yield pb.UploadRequest(header=header)
        start = await self._start
        try:
            for chunk in chunks(self._update.read, header.payload_bytes, start):
                yield pb.UploadRequest(chunk=chunk)
                self._moved += len(chunk.data)
                self._metrics.bytes.labels("up").inc(len(chunk.data))
        except FedFleetError as error:
            # grpc drops it and cancels the call as if somebody had asked for that.
            self._unreadable = error
            raise
