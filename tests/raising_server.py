"""A real server on loopback whose handlers raise what they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from fedfleet.errors import FedFleetError
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.channel import open_channel
from fedfleet.rpc.gate import Gate
from fedfleet.rpc.server import Context, RpcServer
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import control_service_pb2_grpc as pb_grpc
from fedfleet.v1 import federation_service_pb2 as federation_pb
from fedfleet.v1 import federation_service_pb2_grpc as federation_grpc
from fedfleet.wire.limits import STALL_S

# Enough that an unread stream soon fills every buffer on the way.
BULK = "x" * (1 << 18)
SERVICE = "fedfleet.v1.ControlService"


@dataclass
class Raiser(pb_grpc.ControlServiceServicer, federation_grpc.FederationServiceServicer):
    """One handler of each shape; ``error`` makes what they raise."""

    error: Callable[[], Exception] = lambda: FedFleetError("unset")
    closed: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        if request.run_id == "fine":
            return pb.GetRunResponse(run=pb.Run(run_id="fine"))
        raise self.error()

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        try:
            while True:
                yield pb.WatchRunResponse(
                    event=pb.RunEvent(run_id=request.run_id, fields_json=BULK)
                )
                if request.run_id != "endless":
                    raise self.error()
        finally:
            self.closed.append("WatchRun")
            self.ended.set()

    async def ImportVersion(
        self, requests: AsyncIterator[pb.ImportVersionRequest], context: Context
    ) -> pb.ImportVersionResponse:
        async for request in requests:
            if request.chunk == b"fine":
                return pb.ImportVersionResponse(version=pb.Version(number=1))
        raise self.error()

    async def Connect(
        self, requests: AsyncIterator[federation_pb.ConnectRequest], context: Context
    ) -> AsyncIterator[federation_pb.ConnectResponse]:
        async for _ in requests:
            yield federation_pb.ConnectResponse(welcome=federation_pb.Welcome())
            raise self.error()


@dataclass(frozen=True)
class Served:
    """The running server, its handlers and a client's channel."""

    server: RpcServer
    servicer: Raiser
    port: int
    channel: grpc.aio.Channel

    @property
    def control(self) -> pb_grpc.ControlServiceAsyncStub:
        return pb_grpc.ControlServiceStub(self.channel)

    @property
    def federation(self) -> federation_grpc.FederationServiceAsyncStub:
        return federation_grpc.FederationServiceStub(self.channel)


@asynccontextmanager
async def serving(port: int = 0, stall_s: float = STALL_S) -> AsyncIterator[Served]:
    # Abstract for mypy only: the generated base answers UNIMPLEMENTED for the others.
    servicer = Raiser()  # type: ignore[abstract]
    server = RpcServer(stall_s, access=AccessInterceptor(Gate(), Door.PLAIN, stall_s))
    pb_grpc.add_ControlServiceServicer_to_server(servicer, server.grpc)
    federation_grpc.add_FederationServiceServicer_to_server(servicer, server.grpc)
    bound = await server.start("127.0.0.1", port, (SERVICE,))
    channel = open_channel(f"127.0.0.1:{bound}")
    try:
        yield Served(server, servicer, bound, channel)
    finally:
        await channel.close()
        await server.stop(1.0)
