"""FederationService: the workers' streams and transfers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

from fedfleet.codecs.chain import Chain
from fedfleet.errors import (
    AssignmentClosed,
    FedFleetError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotServed,
    TransferInvalid,
)
from fedfleet.rpc.gate import RunningCall, current_call
from fedfleet.rpc.server import Context
from fedfleet.store.protocols import BlobWriter
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2_grpc as pb_grpc
from fedfleet.wire import limits
from fedfleet.wire.chunks import check_chunk, chunks
from fedfleet.wire.evaluations import evaluation_from_message
from fedfleet.wire.release import SOFTWARE_VERSION
from fedfleet.wire.updates import IDENTITY
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.driver import RunDriver
from fedfleet_coordinator.fleet import Session
from fedfleet_coordinator.receiving import next_message
from fedfleet_coordinator.room import Room
from fedfleet_coordinator.runs import RunQueue
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.transfers import Transfers, check_claim

logger = logging.getLogger(__name__)

MISSED_HEARTBEATS = 3
# How long room is kept for a chunk that is on its way.
ROOM_S = 2.0


class FederationServicer(pb_grpc.FederationServiceServicer):
    """Serves workers; holds no state of rounds."""

    def __init__(self, around: Surroundings, runs: RunQueue, config: CoordinatorConfig) -> None:
        self._store = around.store
        self._fleet = around.fleet
        self._runs = runs
        self._executors = around.executors
        self._metrics = around.metrics
        self._traffic = around.traffic
        self._heartbeat_s = config.heartbeat_s
        self._stall_s = config.stall_s
        self._room = Room(config.in_flight_mb, self._metrics)
        self._uploads: dict[str, RunningCall] = {}
        self._transfers = Transfers()

    # Connect

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Welcome a worker, then push what its outbox holds until either side ends."""
        patience_s = MISSED_HEARTBEATS * self._heartbeat_s
        first = await next_message(requests, patience_s)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidInput("the first message of a stream must be a hello")
        session = self._session(first.hello)
        # Joined first: what is cancelled while the welcome is made must find the session.
        self._fleet.join(session)
        reader = asyncio.create_task(self._read(session, requests, patience_s))
        try:
            yield await self._welcome(session)
            while (message := await session.outbox.get()) is not None:
                yield message
            if reader.done() and not reader.cancelled():
                reader.result()
        finally:
            self._fleet.leave(session)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _session(self, hello: pb.Hello) -> Session:
        limits.check_worker_id(hello.worker_id)
        check_claim(hello.worker_id)
        limits.check_count("tags", len(hello.tags), limits.MAX_TAGS)
        limits.check_count("held assignments", len(hello.held_assignment_ids), limits.MAX_HELD)
        for tag in hello.tags:
            limits.check_count("characters in a tag", len(tag), limits.MAX_NAME)
        now_s = time.time()
        return Session(hello=hello, connected_at_s=now_s, last_seen_s=now_s)

    async def _welcome(self, session: Session) -> pb.ConnectResponse:
        held = session.hello.held_assignment_ids
        return pb.ConnectResponse(
            welcome=pb.Welcome(
                session_id=session.session_id,
                heartbeat_interval_s=self._heartbeat_s,
                software_version=SOFTWARE_VERSION,
                wanted_assignment_ids=[key for key in held if await self._is_wanted(key)],
            )
        )

    async def _is_wanted(self, assignment_id: str) -> bool:
        """Open, or journalled: then the worker missed the receipt and is to get it again."""
        if self._runs.wants(assignment_id):
            return True
        run_id, _, rest = assignment_id.partition("/")
        round = rest.partition("/")[0]
        # int() refuses thousands of digits, and no run has so many rounds.
        known = round.isdecimal() and len(round) <= limits.MAX_ROUND_DIGITS
        return known and await self._journalled(run_id, int(round), assignment_id)

    async def _read(
        self, session: Session, requests: AsyncIterator[pb.ConnectRequest], patience_s: float
    ) -> None:
        """Take a worker's messages until it ends the stream or falls silent."""
        try:
            while (request := await next_message(requests, patience_s)) is not None:
                session.last_seen_s = time.time()
                await self._take(session, request)
        finally:
            # Wakes the writing side, which then ends the stream (and raises what was raised here).
            if not session.outbox.full():
                session.outbox.put_nowait(None)

    async def _take(self, session: Session, request: pb.ConnectRequest) -> None:
        kind = request.WhichOneof("message")
        driver = self._runs.active
        if kind == "heartbeat":
            self._fleet.hear(session, request.heartbeat)
            return
        if kind == "progress":
            self._check_owner(session, request.progress.assignment_id)
            session.assignment_id = request.progress.assignment_id[:512]
            session.progress_ratio = min(1.0, max(0.0, request.progress.done_ratio))
        elif kind == "failure":
            failure = request.failure
            self._check_owner(session, failure.assignment_id)
            self._metrics.updates.labels("failed").inc()
            if driver is not None:
                await driver.fail_assignment(
                    failure.assignment_id,
                    failure.code[: limits.MAX_NAME],
                    failure.message[: limits.MAX_REASON],
                )
        elif kind == "evaluation":
            self._check_owner(session, request.evaluation.assignment_id)
            evaluation = evaluation_from_message(request.evaluation.evaluation)
            if driver is not None:
                await driver.report(request.evaluation.assignment_id, evaluation)
        elif kind == "statistics":
            self._check_owner(session, request.statistics.assignment_id)
            if driver is not None:
                await driver.take_statistics(request.statistics)
        elif kind == "protocol":
            raise NotServed("protocol messages are not served by this release")
        else:
            raise InvalidInput("a stream carries one hello, as its first message")

    def _check_owner(self, session: Session, assignment_id: str) -> None:
        if not assignment_id.endswith("/" + session.worker_id):
            raise InvalidInput(
                f"assignment {assignment_id[:200]!r} was not given to {session.worker_id}"
            )

    # Download

    async def Download(
        self, request: pb.DownloadRequest, context: Context
    ) -> AsyncIterator[pb.DownloadResponse]:
        """Send a blob from an offset on."""
        if request.worker_id:
            check_claim(request.worker_id)
        with self._transfers.one():
            async with aclosing(self._blob(request)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _blob(self, request: pb.DownloadRequest) -> AsyncGenerator[pb.DownloadResponse, None]:
        digest = limits.check_digest(request.digest)
        blobs = self._store.blobs
        total = await self._executors.io(lambda: blobs.size(digest))
        if total is None:
            raise NotFound(f"no blob {digest[:12]}; the round may have closed")
        if request.offset_bytes > total:
            raise TransferInvalid(f"offset {request.offset_bytes}: the blob has {total} bytes")
        pieces = chunks(
            lambda offset, length: blobs.read(digest, offset, length), total, request.offset_bytes
        )
        # Whoever never said hello is no worker, whatever it calls itself.
        worker_id = request.worker_id if request.worker_id in self._fleet.known else ""
        driver = self._runs.active
        chain = driver.codec_of(digest) if driver else IDENTITY
        while (chunk := await self._executors.io(lambda: next(pieces, None))) is not None:
            self._traffic.count_down(worker_id, chain, len(chunk.data))
            yield pb.DownloadResponse(chunk=chunk, total_bytes=total)

    # Upload

    async def Upload(
        self, requests: AsyncIterator[pb.UploadRequest], context: Context
    ) -> AsyncIterator[pb.UploadResponse]:
        """Take one update: say from where on, receive, check, journal, answer with a receipt."""
        with self._transfers.one():
            first = await next_message(requests, self._stall_s)
            if first is None or first.WhichOneof("message") != "header":
                raise TransferInvalid("the first message of an upload must be its header")
            # Before an older upload of that assignment is ended.
            check_claim(first.header.worker_id)
            self._check_given(first.header)
            async with aclosing(self._upload(first.header, requests)) as responses:
                async for response in responses:
                    yield response

    def _check_given(self, header: pb.UpdateHeader) -> None:
        names = (header.run_id, header.assignment_id)
        is_given = header.assignment_id.endswith("/" + header.worker_id)
        if is_given and all(name.isprintable() for name in names):
            return
        error = AssignmentClosed(
            f"assignment {header.assignment_id[:200]!r} of run {header.run_id[:64]!r} was not "
            f"given to worker {header.worker_id[:80]!r}"
        )
        self._count_refused(header, error)
        raise error

    async def _upload(
        self, header: pb.UpdateHeader, requests: AsyncIterator[pb.UploadRequest]
    ) -> AsyncGenerator[pb.UploadResponse, None]:
        call = await self._supersede(header.assignment_id)
        try:
            if await self._accepted(header):
                self._metrics.updates.labels("duplicate").inc()
                yield _receipt(header, duplicate=True)
                return
            try:
                driver = self._driver(header)
            except AssignmentClosed as error:
                self._count_refused(header, error)
                raise
            async for response in self._receive(header, driver, requests):
                yield response
        finally:
            if self._uploads.get(header.assignment_id) is call:
                del self._uploads[header.assignment_id]

    async def _receive(
        self,
        header: pb.UpdateHeader,
        driver: RunDriver,
        requests: AsyncIterator[pb.UploadRequest],
    ) -> AsyncIterator[pb.UploadResponse]:
        blobs = self._store.blobs
        try:
            driver.check_header(header)
            uplink = driver.uplink_of(header.assignment_id)
            writer = await self._executors.io(
                lambda: blobs.writer(
                    header.payload_digest, header.payload_bytes, header.assignment_id
                )
            )
            try:
                yield pb.UploadResponse(ready=pb.UploadReady(offset_bytes=writer.offset_bytes))
                await self._take_chunks(header, uplink, writer, requests)
            finally:
                await self._executors.io(writer.close)
            # The run may have been taken up by another driver while the payload came.
            driver = self._driver(header)
            duplicate = await driver.accept(header)
        except (InvalidInput, LimitExceeded, AssignmentClosed) as error:
            # An earlier upload of this update, cut inside its journal write, may have got through.
            if isinstance(error, AssignmentClosed) and await self._accepted(header):
                self._metrics.updates.labels("duplicate").inc()
                yield _receipt(header, duplicate=True)
                return
            await self._refuse(header, driver, error)
            raise
        self._metrics.updates.labels("duplicate" if duplicate else "accepted").inc()
        known = self._fleet.known.get(header.worker_id)
        if known is not None:
            known.updates += not duplicate
        yield _receipt(header, duplicate=duplicate)

    async def _take_chunks(
        self,
        header: pb.UpdateHeader,
        chain: Chain,
        writer: BlobWriter,
        requests: AsyncIterator[pb.UploadRequest],
    ) -> None:
        while writer.offset_bytes < header.payload_bytes:
            size_bytes = await self._take_chunk(header, writer, requests)
            self._traffic.count_up(header.worker_id, chain, size_bytes)
        await self._executors.io(writer.commit)

    async def _take_chunk(
        self,
        header: pb.UpdateHeader,
        writer: BlobWriter,
        requests: AsyncIterator[pb.UploadRequest],
    ) -> int:
        """Receive a chunk once there is room for it; a slow worker does not keep the room."""
        async with AsyncExitStack() as room:
            await room.enter_async_context(self._room.hold())
            coming = asyncio.ensure_future(next_message(requests, self._stall_s))
            try:
                await asyncio.wait({coming}, timeout=ROOM_S)
                if not coming.done():
                    await room.aclose()
                    await coming
                    await room.enter_async_context(self._room.hold())
                return await self._keep_chunk(header, writer, coming.result())
            finally:
                coming.cancel()

    async def _keep_chunk(
        self, header: pb.UpdateHeader, writer: BlobWriter, request: pb.UploadRequest | None
    ) -> int:
        if request is None:
            raise TransferInvalid(
                f"the upload ended at byte {writer.offset_bytes} of {header.payload_bytes}"
            )
        chunk = request.chunk

        def keep() -> int:
            data = check_chunk(chunk, writer.offset_bytes, header.payload_bytes)
            writer.write(data)
            return len(data)

        return await self._executors.io(keep)

    async def _refuse(
        self, header: pb.UpdateHeader, driver: RunDriver, error: FedFleetError
    ) -> None:
        """Count a refused update; one that can never be right fails its assignment at once."""
        self._count_refused(header, error)
        if error.retryable or isinstance(error, TransferInvalid):
            return  # the worker may send the same bytes better
        await driver.discard(header.payload_digest)
        if not isinstance(error, AssignmentClosed):
            reason = error.message[: limits.MAX_REASON]
            await driver.fail_assignment(header.assignment_id, error.code, reason)

    def _count_refused(self, header: pb.UpdateHeader, error: FedFleetError) -> None:
        self._metrics.updates.labels("refused").inc()
        self._metrics.refusals.labels(error.code).inc()
        logger.warning(
            "update_refused",
            extra={
                "worker_id": header.worker_id[: limits.MAX_NAME],
                "assignment_id": header.assignment_id[:200],
                "code": error.code,
                "reason": error.message[: limits.MAX_REASON],
            },
        )

    async def _supersede(self, assignment_id: str) -> RunningCall:
        """End an older upload of the same assignment: its connection is probably dead.

        Returns:
            The call that runs here.
        """
        current = current_call()
        assert current is not None
        older = self._uploads.get(assignment_id)
        self._uploads[assignment_id] = current
        if older is not None:
            older.end(AssignmentClosed("a newer upload of this assignment took over"))
            await older.ended()
        return current

    async def _accepted(self, header: pb.UpdateHeader) -> bool:
        """Whether this very update is in the journal."""
        return await self._journalled(
            header.run_id, header.round, header.assignment_id, header.payload_digest
        )

    async def _journalled(
        self, run_id: str, round: int, assignment_id: str, digest: str | None = None
    ) -> bool:
        """Whether an update of this assignment (with this payload) has been accepted."""
        journal = self._store.journal
        rounds = self._runs.counting_rounds(run_id, round)
        if not rounds:
            return False  # no round that there has been
        record = await self._executors.io(
            lambda: journal.find_update(run_id, rounds, assignment_id)
        )
        return record is not None and digest in (None, record.digest)

    def _driver(self, header: pb.UpdateHeader) -> RunDriver:
        driver = self._runs.active
        if driver is None or driver.run_id != header.run_id:
            raise AssignmentClosed(f"run {header.run_id[:64]} is not active; drop the update")
        return driver


def _receipt(header: pb.UpdateHeader, *, duplicate: bool) -> pb.UploadResponse:
    return pb.UploadResponse(
        receipt=pb.Receipt(assignment_id=header.assignment_id, duplicate=duplicate)
    )
