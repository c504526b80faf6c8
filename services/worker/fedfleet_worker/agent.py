"""Keeps the stream to the coordinator: hello, heartbeats, assignments; dials again when it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import grpc

from fedfleet.errors import (
    FedFleetError,
    InvalidInput,
    LimitExceeded,
    NotAllowed,
    NotServed,
    Unauthenticated,
    Unavailable,
)
from fedfleet.rpc.patience import within
from fedfleet.rpc.retry import backoff_s
from fedfleet.rpc.status import error_of
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.release import SOFTWARE_VERSION
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.device import heartbeat, profile
from fedfleet_worker.lines import Lines
from fedfleet_worker.links import Links
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.renewal import Keeper
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.workbench import Workbench

logger = logging.getLogger(__name__)

WELCOME_S = 20.0
# Answers to a hello that the same hello will get again. After anything else, a fault of the
# coordinator's own included, the worker stays and dials again.
REFUSALS = (InvalidInput, LimitExceeded, NotAllowed, NotServed)
# A stream that ends sooner than this was not worth its dialling: the next waits longer.
SHORT_S = 30.0
# Rounds of dialling without an answer after which the certificate may be at fault.
DOUBT_AFTER = 3
# How long a stream is left with the old credentials while there is work.
QUIET_S = 300.0
# Reports that wait for the stream to come back. A lost one costs a second evaluation: the
# coordinator gives an open assignment again to a worker that comes back.
OUTBOX = 64


_REFUSED = (
    "nothing is lost on this device; if its certificate was revoked, an operator has to make a new "
    "token, and `fedfleet-worker enroll --replace` trades it"
)


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


def refused_backoff_s() -> Iterator[float]:
    """Waits before a coordinator is asked again that does not take this worker's certificate."""
    return (30.0 + wait_s for wait_s in backoff_s(60.0, 900.0))


class Agent:
    """One worker's stream.

    Args:
        lines: where the coordinator is dialled.
        backoff: makes the waits before dialling again.
        refused_backoff: makes those while the coordinator does not take the certificate.
        keeper: told when the certificate may be at fault.
        clock: seconds, for how long a stream lasted.
        why_paused: says why the worker takes no work now; empty when it does.
        links: what is known of the link.
        speeds: what is known of the device at each level.
    """

    def __init__(
        self,
        config: WorkerConfig,
        lines: Lines,
        workbench: Workbench,
        outbox: Outbox,
        metrics: WorkerMetrics,
        *,
        backoff: Callable[[], Iterator[float]] = dial_backoff_s,
        refused_backoff: Callable[[], Iterator[float]] = refused_backoff_s,
        keeper: Keeper | None = None,
        clock: Callable[[], float] = time.monotonic,
        why_paused: Callable[[], str] = str,
        links: Links | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self._config = config
        self._lines = lines
        self._workbench = workbench
        self._outbox = outbox
        self._metrics = metrics
        self._backoff = backoff
        self._refused_backoff = refused_backoff
        self._keeper = keeper
        self._clock = clock
        self._why_paused = why_paused
        self._links = links or Links()
        self._speeds = speeds
        self._goodbye = ""
        self._moves = False
        self._rounds = 0
        self._dials: Iterator[float]
        self._refusals: Iterator[float]
        self.connected = False

    def tell(self) -> None:
        """Send a heartbeat now: something in it has changed."""
        if self.connected:  # the next stream begins with one
            self._outbox.put(pb.ConnectRequest(heartbeat=pb.Heartbeat()))  # filled as it is sent

    async def run(self) -> None:
        """Keep a stream open, for ever; raises only what dialling again cannot mend."""
        self._begin_dialling()
        short = self._backoff()
        while True:
            try:
                lasted_s = await self._session()
            except FedFleetError as error:
                if isinstance(error, REFUSALS) and not error.retryable:
                    raise
                wait_s = self._unserved(error)
            else:
                self._begin_dialling()
                if self._moves:
                    continue
                if lasted_s >= SHORT_S:
                    short = self._backoff()
                else:
                    self._warn_short(lasted_s)
                wait_s = next(short)
            # Other credentials are a reason not to wait any longer.
            with suppress(asyncio.TimeoutError):
                await within(wait_s, self._lines.changed.wait())

    def _begin_dialling(self) -> None:
        self._rounds = 0
        self._dials, self._refusals = self._backoff(), self._refused_backoff()

    def _unserved(self, error: FedFleetError) -> float:
        """Say why there was no welcome; returns how long to wait before dialling again."""
        extra = {
            "coordinator": self._lines.address,
            "code": error.code,
            "detail": error.detail or error.message,
        }
        if isinstance(error, Unauthenticated):
            logger.error("certificate_refused", extra={**extra, "hint": _REFUSED})
            self._lines.admit(False)
            self._doubt()
            return next(self._refusals)
        logger.warning("coordinator_unreachable", extra=extra)
        if not self._lines.missed():
            return 0.0  # there is another address
        self._rounds += 1
        if self._rounds % DOUBT_AFTER == 0:
            self._doubt()
        return next(self._dials)

    def _doubt(self) -> None:
        if self._keeper is not None:
            self._keeper.doubt()

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
        stub = await self._lines.stream()
        call = stub.Connect()
        began_s, self._goodbye, self._moves = self._clock(), "", False
        try:
            held = self._workbench.held
            await call.write(pb.ConnectRequest(hello=self._hello(device, held)))
            welcome = await self._welcome(call)
            self._workbench.keep_only(welcome.wanted_assignment_ids, held)
            self._set_connected(True)
            await self._talk(call, welcome.heartbeat_interval_s)
        except grpc.aio.AioRpcError as error:
            known = error_of(error)
            if not self.connected or isinstance(known, Unauthenticated):
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
        mover = asyncio.create_task(self._until_moving())
        tasks = (reader, writer, mover)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            if mover.done() and not reader.done():
                await self._end(call, writer, reader)
            else:
                await reader
        finally:
            # First the call: a writer that was just about to write must find it ended.
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_moving(self) -> None:
        """Return when the stream is to be opened with other credentials: soon, but in quiet."""
        await self._lines.changed.wait()
        with suppress(asyncio.TimeoutError):
            await within(QUIET_S, self._workbench.idle.wait())

    async def _end(
        self,
        call: grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse],
        writer: asyncio.Task[None],
        reader: asyncio.Task[None],
    ) -> None:
        """End a stream from this side; what either side has said by then arrives."""
        self._moves = True
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        with suppress(asyncio.TimeoutError, asyncio.InvalidStateError):
            await call.done_writing()
            await within(WELCOME_S, reader)

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
        self._lines.admit(True)
        logger.info("connected", extra={"coordinator": self._lines.address})
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
