"""A coordinator on loopback whose every answer a test writes, for a worker's parts alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from fedfleet.errors import NotFound
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.server import Context, RpcServer
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2_grpc as pb_grpc
from fedfleet.wire.chunks import chunks

PATIENCE_S = 20.0

# A script yields what the coordinator answers, or raises it.
Uploading = Callable[
    [pb.UpdateHeader, AsyncIterator[pb.UploadRequest]], AsyncIterator[pb.UploadResponse]
]
Downloading = Callable[[pb.DownloadRequest], AsyncIterator[pb.DownloadResponse]]
Talking = Callable[[pb.Hello, AsyncIterator[pb.ConnectRequest]], AsyncIterator[pb.ConnectResponse]]


def welcome(heartbeat_s: float = 60.0, wanted: tuple[str, ...] = ()) -> pb.ConnectResponse:
    return pb.ConnectResponse(
        welcome=pb.Welcome(heartbeat_interval_s=heartbeat_s, wanted_assignment_ids=wanted)
    )


def ready(offset_bytes: int) -> pb.UploadResponse:
    return pb.UploadResponse(ready=pb.UploadReady(offset_bytes=offset_bytes))


def receipt(header: pb.UpdateHeader) -> pb.UploadResponse:
    return pb.UploadResponse(receipt=pb.Receipt(assignment_id=header.assignment_id))


@dataclass
class Scripted(pb_grpc.FederationServiceServicer):
    """The scripts, and what was asked for. ``blobs`` answers the downloads without a script."""

    stub: Any = None
    address: str = ""
    talk: Talking | None = None
    upload: Uploading | None = None
    download: Downloading | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    hellos: asyncio.Queue[pb.Hello] = field(default_factory=asyncio.Queue)
    downloads: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    uploads: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def dial(self) -> Any:
        """What a worker calls on."""
        return self.stub

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        first = await requests.__anext__()
        self.hellos.put_nowait(first.hello)
        assert self.talk is not None
        async for response in self.talk(first.hello, requests):
            yield response

    async def Download(
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncIterator[pb.DownloadResponse]:
        self.downloads.put_nowait(request.digest)
        if self.download is not None:
            async for response in self.download(request):
                yield response
            return
        if request.digest not in self.blobs:
            raise NotFound("no such blob")
        blob = self.blobs[request.digest]
        for chunk in chunks(lambda at, n: blob[at : at + n], len(blob), request.offset_bytes):
            yield pb.DownloadResponse(chunk=chunk, total_bytes=len(blob))

    async def Upload(
        self, requests: AsyncIterator[pb.UploadRequest], context: Context
    ) -> AsyncIterator[pb.UploadResponse]:
        first = await requests.__anext__()
        self.uploads.put_nowait(first.header.assignment_id)
        assert self.upload is not None
        async for response in self.upload(first.header, requests):
            yield response


@asynccontextmanager
async def scripted_coordinator() -> AsyncIterator[Scripted]:
    server, servicer = RpcServer(), Scripted()
    pb_grpc.add_FederationServiceServicer_to_server(servicer, server.grpc)
    port = await server.start("127.0.0.1", 0, ("fedfleet.v1.FederationService",))
    servicer.address = f"127.0.0.1:{port}"
    channel: grpc.aio.Channel = open_channel(servicer.address)
    servicer.stub = pb_grpc.FederationServiceStub(channel)
    try:
        yield servicer
    finally:
        await channel.close()
        await server.stop(1.0)


async def soon(queue: asyncio.Queue[Any]) -> Any:
    """The next item; a failed test instead of a hanging one."""
    return await asyncio.wait_for(queue.get(), PATIENCE_S)
