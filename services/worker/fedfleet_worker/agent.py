"""Keeps the stream to the coordinator: hello, heartbeats, assignments; dials again when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

import grpc

from fedfleet.errors import FedFleetError, Unavailable
from fedfleet.rpc.retry import backoff_s
from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.device import heartbeat, profile
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.workbench import Workbench

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

logger = logging.getLogger(__name__)

SOFTWARE_VERSION = "0.1.0"
WELCOME_S = 20.0
# Reports that wait for the stream to come back. A lost one costs a second evaluation: the
# coordinator gives an open assignment again to a worker that comes back.
OUTBOX = 64


class Outbox:
    """Messages to the coordinator; outlives streams. The oldest goes when there are too many."""

    def __init__(self) -> None:
        self._messages: deque[pb.ConnectRequest] = deque(maxlen=OUTBOX)
        self._filled = asyncio.Event()

    def put(self, message: pb.ConnectRequest) -> None:
        self._messages.append(message)
        self._filled.set()

    async def get(self) -> pb.ConnectRequest:
        """The oldest message, when there is one."""
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        return self._messages.popleft()


class Agent:
    """One worker's stream."""

    def __init__(
        self,
        config: WorkerConfig,
        stub: FederationServiceAsyncStub,
        workbench: Workbench,
        outbox: Outbox,
        metrics: WorkerMetrics,
    ) -> None:
        self._config = config
        self._stub = stub
        self._workbench = workbench
        self._outbox = outbox
        self._metrics = metrics
        self.connected = False

    async def run(self) -> None:
        """Keep a stream open, for ever; raises only what dialling again cannot mend."""
        waits = backoff_s(0.2, 20.0)
        while True:
            try:
                await self._session()
                waits = backoff_s(0.2, 20.0)
            except FedFleetError as error:
                if not error.retryable:
                    raise
                logger.warning(
                    "coordinator_unreachable",
                    extra={
                        "coordinator": self._config.coordinator,
                        "code": error.code,
                        "detail": error.detail,
                    },
                )
            await asyncio.sleep(next(waits))

    async def _session(self) -> None:
        """One stream from hello to its end; returns when it had been welcomed."""
        call = self._stub.Connect()
        beat = asyncio.create_task(asyncio.sleep(0))
        try:
            held = self._workbench.held
            await call.write(pb.ConnectRequest(hello=self._hello(held)))
            welcome = await self._welcome(call)
            self._workbench.keep_only(welcome.wanted_assignment_ids, held)
            self._set_connected(True)
            beat = asyncio.create_task(self._write(call, welcome.heartbeat_interval_s))
            await self._read(call)
        except grpc.aio.AioRpcError as error:
            known = error_of(error)
            if not self.connected or not known.retryable:
                raise known from error
            logger.warning("stream_ended", extra={"code": known.code, "detail": known.detail})
        except asyncio.InvalidStateError as error:
            raise Unavailable("the stream ended before the hello was sent") from error
        finally:
            self._set_connected(False)
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            call.cancel()

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        self._metrics.connected.set(connected)

    def _hello(self, held: tuple[str, ...]) -> pb.Hello:
        return pb.Hello(
            worker_id=self._config.name,
            software_version=SOFTWARE_VERSION,
            device=profile(),
            tags=self._config.tags,
            held_assignment_ids=held,
        )

    async def _welcome(
        self, call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]
    ) -> pb.Welcome:
        try:
            response = await asyncio.wait_for(call.read(), WELCOME_S)
        except asyncio.TimeoutError as error:
            raise Unavailable("the coordinator did not answer the hello") from error
        if not isinstance(response, pb.ConnectResponse):
            raise Unavailable("the coordinator ended the stream instead of answering the hello")
        if response.WhichOneof("message") != "welcome":
            raise Unavailable("the coordinator did not begin with a welcome")
        logger.info("connected", extra={"coordinator": self._config.coordinator})
        return response.welcome

    async def _write(
        self,
        call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse],
        interval_s: float,
    ) -> None:
        """Send what the outbox holds, and a heartbeat whenever an interval passed without one."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                message = await asyncio.wait_for(self._outbox.get(), max(0.0, due - loop.time()))
            except asyncio.TimeoutError:
                message = pb.ConnectRequest(heartbeat=heartbeat())
                due = loop.time() + interval_s
            await call.write(message)

    async def _read(
        self, call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]
    ) -> None:
        """Take the coordinator's messages; a dead connection is noticed by keepalive."""
        while True:
            response = await call.read()
            if not isinstance(response, pb.ConnectResponse):
                return
            kind = response.WhichOneof("message")
            if kind == "assignment":
                self._workbench.offer(response.assignment)
            elif kind == "cancel":
                self._workbench.cancel(response.cancel.assignment_id)
            elif kind == "goodbye":
                logger.info("goodbye", extra={"reason": response.goodbye.reason})
                return
