"""Keeps the stream to the coordinator: hello, heartbeats, assignments; dials again when it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import grpc

from fedfleet.errors import (
    FedFleetError,
    InvalidInput,
    LimitExceeded,
    NotAllowed,
    NotServed,
    Unavailable,
)
from fedfleet.rpc.patience import within
from fedfleet.rpc.retry import backoff_s
from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.release import SOFTWARE_VERSION
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.device import heartbeat, profile
from fedfleet_worker.links import Links
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.workbench import Workbench

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

logger = logging.getLogger(__name__)

WELCOME_S = 20.0
# Answers to a hello that the same hello will get again. After anything else, a fault of the
# coordinator's own included, the worker stays and dials again.
REFUSALS = (InvalidInput, LimitExceeded, NotAllowed, NotServed)
# A stream that ends sooner than this was not worth its dialling: the next waits longer.
SHORT_S = 30.0
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


def dial_backoff_s() -> Iterator[float]:
    """Waits before the stream is opened again."""
    return backoff_s(0.2, 20.0)


class Agent:
    """One worker's stream.

    Args:
        backoff: makes the waits before dialling again.
        clock: seconds, for how long a stream lasted.
        why_paused: says why the worker takes no work now; empty when it does.
        links: what is known of the link.
        speeds: what is known of the device at each level.
    """

    def __init__(
        self,
        config: WorkerConfig,
        stub: FederationServiceAsyncStub,
        workbench: Workbench,
        outbox: Outbox,
        metrics: WorkerMetrics,
        *,
        backoff: Callable[[], Iterator[float]] = dial_backoff_s,
        clock: Callable[[], float] = time.monotonic,
        why_paused: Callable[[], str] = str,
        links: Links | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self._config = config
        self._stub = stub
        self._workbench = workbench
        self._outbox = outbox
        self._metrics = metrics
        self._backoff = backoff
        self._clock = clock
        self._why_paused = why_paused
        self._links = links or Links()
        self._speeds = speeds
        self._goodbye = ""
        self.connected = False

    def tell(self) -> None:
        """Send a heartbeat now: something in it has changed."""
        if self.connected:  # the next stream begins with one
            self._outbox.put(pb.ConnectRequest(heartbeat=pb.Heartbeat()))  # filled as it is sent

    async def run(self) -> None:
        """Keep a stream open, for ever; raises only what dialling again cannot mend."""
        dials, short = self._backoff(), self._backoff()
        while True:
            try:
                lasted_s = await self._session()
            except FedFleetError as error:
                if isinstance(error, REFUSALS) and not error.retryable:
                    raise
                logger.warning(
                    "coordinator_unreachable",
                    extra={
                        "coordinator": self._config.coordinator,
                        "code": error.code,
                        "detail": error.detail or error.message,
                    },
                )
                wait_s = next(dials)
            else:
                dials = self._backoff()
                if lasted_s >= SHORT_S:
                    short = self._backoff()
                else:
                    self._warn_short(lasted_s)
                wait_s = next(short)
            await asyncio.sleep(wait_s)

    def _warn_short(self, lasted_s: float) -> None:
        logger.warning(
            "stream_was_short",
            extra={
                "lasted_s": round(lasted_s, 3),
                "goodbye": self._goodbye,
                "hint": "two workers with one id end each other's streams; give every worker "
                "a FEDFLEET_WORKER_ID of its own",
            },
        )

    async def _session(self) -> float:
        """One stream from hello to its end; returns how many seconds it lasted, once welcomed."""
        device = await self._profile()
        call = self._stub.Connect()
        began_s, self._goodbye = self._clock(), ""
        try:
            held = self._workbench.held
            await call.write(pb.ConnectRequest(hello=self._hello(device, held)))
            welcome = await self._welcome(call)
            self._workbench.keep_only(welcome.wanted_assignment_ids, held)
            self._set_connected(True)
            await self._talk(call, welcome.heartbeat_interval_s)
        except grpc.aio.AioRpcError as error:
            known = error_of(error)
            if not self.connected:
                raise known from error
            logger.warning(
                "stream_ended", extra={"code": known.code, "detail": known.detail or known.message}
            )
        except asyncio.InvalidStateError as error:
            raise Unavailable("the stream ended before the hello was sent") from error
        finally:
            self._set_connected(False)
            call.cancel()
        return self._clock() - began_s

    async def _talk(
        self,
        call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse],
        interval_s: float,
    ) -> None:
        """Read and write until the coordinator ends the stream, or either side of it fails."""
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._write(call, interval_s))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            await reader
        finally:
            # First the call: a writer that was just about to write must find it ended.
            call.cancel()
            writer.cancel()
            reader.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        self._metrics.connected.set(connected)

    def _hello(self, device: pb.DeviceProfile, held: tuple[str, ...]) -> pb.Hello:
        return pb.Hello(
            worker_id=self._config.name,
            software_version=SOFTWARE_VERSION,
            device=device,
            tags=self._config.tags,
            held_assignment_ids=held,
            pause_reason=self._why_paused(),
        )

    async def _profile(self) -> pb.DeviceProfile:
        levels: Sequence[pb.LevelSpeed] = ()
        if self._speeds is not None:
            self._speeds.take_news()  # they are told here
            levels = self._speeds.known
        # An accelerator takes seconds to be asked for the first time.
        device = await asyncio.to_thread(profile, self._config.worker_memory_mb << 20, levels)
        device.link_down_bytes_per_s = self._links.down.bytes_per_s
        device.link_up_bytes_per_s = self._links.up.bytes_per_s
        return device

    async def _heartbeat(self) -> pb.Heartbeat:
        beat = await asyncio.to_thread(heartbeat)
        beat.pause_reason = self._why_paused()
        beat.link_down_bytes_per_s = self._links.down.bytes_per_s
        beat.link_up_bytes_per_s = self._links.up.bytes_per_s
        if self._speeds is not None:
            beat.levels.extend(self._speeds.take_news())
        return beat

    async def _welcome(
        self, call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]
    ) -> pb.Welcome:
        try:
            response = await within(WELCOME_S, call.read())
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
                message = await within(max(0.0, due - loop.time()), self._outbox.get())
            except asyncio.TimeoutError:
                message = pb.ConnectRequest(heartbeat=pb.Heartbeat())
                due = loop.time() + interval_s
            if message.HasField("heartbeat"):
                message = pb.ConnectRequest(heartbeat=await self._heartbeat())
            try:
                await call.write(message)
            except asyncio.InvalidStateError:
                return  # the stream is over; what is read from it says how it ended

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
                self._goodbye = response.goodbye.reason
                logger.info("goodbye", extra={"reason": self._goodbye})
                return
