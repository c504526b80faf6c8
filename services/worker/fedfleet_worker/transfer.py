"""Moves big bytes between worker and coordinator, from where the last attempt stopped."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc

from fedfleet.errors import ChecksumMismatch, TimedOut, TransferInvalid
from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.chunks import check_chunk, chunks
from fedfleet_worker.disk import Finished
from fedfleet_worker.metrics import WorkerMetrics

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

# A transfer fails when bytes stop moving for this long, however long it takes in all.
STALL_S = 60.0


class Download:
    """One blob being received; what came stays over attempts."""

    def __init__(self, digest: str, size_bytes: int, metrics: WorkerMetrics) -> None:
        self._digest = digest
        self._size_bytes = size_bytes
        self._metrics = metrics
        self._data = bytearray()

    async def run(self, stub: FederationServiceAsyncStub) -> bytes:
        """Receive the rest, check it, return all of it.

        Raises:
            Unavailable, TimedOut: try again, it goes on where it stopped.
            NotFound: the coordinator has no such blob any more.
            ChecksumMismatch: damaged; the next attempt begins anew.
        """
        request = pb.DownloadRequest(digest=self._digest, offset_bytes=len(self._data))
        call = stub.Download(request)
        try:
            responses = call.__aiter__()
            while len(self._data) < self._size_bytes:
                response = await asyncio.wait_for(responses.__anext__(), STALL_S)
                data = check_chunk(response.chunk, len(self._data), self._size_bytes)
                self._metrics.bytes.labels("down").inc(len(data))
                self._data += data
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        except StopAsyncIteration as error:
            raise TransferInvalid(f"the download ended at byte {len(self._data)}") from error
        except asyncio.TimeoutError as error:
            raise TimedOut(f"no byte came for {STALL_S:g} s") from error
        finally:
            call.cancel()
        whole = bytes(self._data)
        if hashlib.sha256(whole).hexdigest() != self._digest:
            self._data.clear()
            raise ChecksumMismatch("the version's bytes are not those of its digest")
        return whole


class Upload:
    """One attempt to deliver a finished update."""

    def __init__(self, update: Finished, metrics: WorkerMetrics) -> None:
        self._update = update
        self._metrics = metrics
        self._start: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._moved = 0

    async def run(self, stub: FederationServiceAsyncStub) -> pb.Receipt:
        """Send from where the coordinator asks for, until the receipt.

        Raises:
            FedFleetError: as the coordinator says; retryable ones go on where this one stopped.
        """
        call = stub.Upload(self._requests())
        try:
            responses = call.__aiter__()
            while True:
                response = await self._next(responses)
                if response.WhichOneof("message") == "receipt":
                    return response.receipt
                self._start.set_result(response.ready.offset_bytes)
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
        while True:
            before = self._moved
            done, _ = await asyncio.wait([task], timeout=STALL_S)
            if done:
                return task.result()
            if self._moved == before:
                task.cancel()
                raise TimedOut(f"no byte moved for {STALL_S:g} s")

    async def _requests(self) -> AsyncIterator[pb.UploadRequest]:
        header = self._update.header
        yield pb.UploadRequest(header=header)
        start = await self._start
        for chunk in chunks(self._update.read, header.payload_bytes, start):
            yield pb.UploadRequest(chunk=chunk)
            self._moved += len(chunk.data)
            self._metrics.bytes.labels("up").inc(len(chunk.data))
