"""Carries out assignments one after the other, whether or not the stream is up.

An assignment lives here from its push until its receipt, its report, or its cancellation: the
stream may break and come back meanwhile, and the coordinator may be another process.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from fedfleet.errors import (
    AssignmentClosed,
    ChecksumMismatch,
    FedFleetError,
    OutOfMemory,
    TrainingFailed,
    TransferInvalid,
    Unauthenticated,
    Unavailable,
)
from fedfleet.obs.logs import log_context
from fedfleet.rpc.retry import backoff_s
from fedfleet.training.local import PARTIAL
from fedfleet.types import Evaluation
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_to_message
from fedfleet.wire.limits import MAX_REASON
from fedfleet_worker.disk import Disk, Finished
from fedfleet_worker.guest import Limits
from fedfleet_worker.links import Links
from fedfleet_worker.memory import MemoryLimit, out_of_memory, release_memory
from fedfleet_worker.metrics import WorkerMetrics
from fedfleet_worker.pausing import Pausing
from fedfleet_worker.room import DISK_FAULTS, Room
from fedfleet_worker.speeds import Speeds
from fedfleet_worker.stint import Stint, cut_at_s
from fedfleet_worker.training import Bench
from fedfleet_worker.transfer import Download, Transfer, Upload
from fedfleet_worker.versions import Versions

if TYPE_CHECKING:
    from fedfleet.v1.federation_service_pb2_grpc import FederationServiceAsyncStub

logger = logging.getLogger(__name__)

T = TypeVar("T")
PROGRESS_S = 0.5
# Attempts of a transfer that are refused or spoiled at one place before that is final.
STUCK = 5


def transfer_backoff_s() -> Iterator[float]:
    """Waits between the attempts of a transfer."""
    return backoff_s(0.1, 10.0)


class Job:
    """An assignment that this worker holds.

    ``cancelled`` may be set from any thread; ``interruptible`` while the task may be cancelled:
    it moves bytes or waits. ``ends_s`` is the deadline by the monotonic clock.
    """

    def __init__(self, assignment_id: str, assignment: pb.Assignment | None) -> None:
        self.assignment_id = assignment_id
        self.assignment = assignment
        self.finished: Finished | None = None
        self.cancelled = threading.Event()
        self.interruptible = False
        # Zero is no deadline, or one that has passed: then it is for the coordinator to cancel.
        deadline_s = assignment.deadline_s if assignment and assignment.deadline_s else math.inf
        self.ends_s = time.monotonic() + deadline_s
        self.task: asyncio.Task[None] | None = None


class Workbench:
    """Holds the jobs.

    Args:
        dial: gives what transfers are called on, before each attempt.
        threads: where training runs; one thread, since torch's settings are global to a process.
        send: puts a message on the stream when there is one.
        backoff: makes the waits between the attempts of one transfer.
        pausing: when the worker rests; never where None.
        room: told when the disk refuses; whoever gives it also watches it.
        links: learns how fast transfers are.
        memory: that a training may take.
        margin_s: kept free before a deadline, beside the time that an update will take.
        speeds: measured before the first assignment of a run that chooses levels by them.
    """

    def __init__(
        self,
        bench: Bench,
        disk: Disk,
        dial: Callable[[], Awaitable[FederationServiceAsyncStub]],
        metrics: WorkerMetrics,
        threads: Executor,
        send: Callable[[pb.ConnectRequest], None],
        backoff: Callable[[], Iterator[float]] = transfer_backoff_s,
        *,
        pausing: Pausing | None = None,
        room: Room | None = None,
        links: Links | None = None,
        memory: MemoryLimit | None = None,
        margin_s: float = 2.0,
        speeds: Speeds | None = None,
    ) -> None:
        self._bench = bench
        self._versions = Versions(bench, disk)
        self._disk = disk
        self._dial = dial
        self._metrics = metrics
        self._send = send
        self._backoff = backoff
        self._pausing = pausing or Pausing(Limits(), metrics)
        self._room = room or Room(disk)
        self._links = links or Links()
        self._memory = memory or MemoryLimit()
        self._margin_s = margin_s
        self._speeds = speeds
        # Of the last update, under its run and level: its payload, and how long it took to make it
        # of what was trained. The next will be alike.
        self._sizes_bytes: dict[tuple[str, str], int] = {}
        self._finish_s: dict[tuple[str, str], float] = {}
        # Updates that counted, whose memories the disk has not taken yet.
        self._unsettled: list[Finished] = []
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._jobs: dict[str, Job] = {}
        # Set while nothing is held.
        self.idle = asyncio.Event()
        self.idle.set()
        self._threads = threads
        for finished in disk.finished():
            job = Job(finished.assignment_id, None)
            job.finished = finished
            self._hold(job)

    @property
    def held(self) -> tuple[str, ...]:
        """Ids of the assignments that are worked on or wait for their receipt."""
        return tuple(self._jobs)

    def offer(self, assignment: pb.Assignment) -> None:
        """Take an assignment; one that is held already is not begun again."""
        if assignment.assignment_id not in self._jobs:
            self._hold(Job(assignment.assignment_id, assignment))

    def cancel(self, assignment_id: str) -> None:
        """Give an assignment up, wherever it is."""
        job = self._jobs.get(assignment_id)
        if job is None:
            return
        job.cancelled.set()
        # The training thread looks at the event itself; a task that left it would not stop it.
        if job.task is not None and job.interruptible:
            job.task.cancel()

    def keep_only(self, wanted: Iterable[str], held: Iterable[str]) -> None:
        """Give up what the coordinator does not want any more of what it was told."""
        for assignment_id in set(held) - set(wanted):
            self.cancel(assignment_id)

    async def work(self) -> None:
        """Carry out jobs, for ever."""
        while True:
            job = await self._queue.get()
            if not job.cancelled.is_set():
                job.task = asyncio.create_task(self._run(job))
                try:
                    await asyncio.wait([job.task])
                finally:
                    job.cancelled.set()
                    job.task.cancel()
                if not job.task.cancelled():
                    job.task.result()
            await self._let_go(job)

    async def close(self, grace_s: float) -> None:
        """Stop; an upload in progress gets a grace, finished updates stay on disk."""
        tasks = [job.task for job in self._jobs.values() if job.task and job.finished]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for job in self._jobs.values():
            job.cancelled.set()

    # Inside

    def _hold(self, job: Job) -> None:
        self._jobs[job.assignment_id] = job
        self.idle.clear()
        self._queue.put_nowait(job)

    async def _let_go(self, job: Job) -> None:
        """Forget a job; an update that is still on disk was given up or refused."""
        self._jobs.pop(job.assignment_id, None)
        if not self._jobs:
            self.idle.set()
        if job.task is None or job.task.cancelled():
            self._metrics.assignments.labels("abandoned").inc()
            logger.info("assignment_cancelled", extra={"assignment_id": job.assignment_id})
        finished = job.finished
        if finished is not None:
            try:
                await self._thread(lambda: self._disk.drop(finished))
            except FedFleetError as error:
                logger.warning(
                    "update_not_dropped", extra={"code": error.code, "detail": error.detail}
                )

    async def _run(self, job: Job) -> None:
        with log_context(assignment_id=job.assignment_id):
            try:
                if job.assignment is not None:
                    # Whoever cannot begin in time says so while another can still be asked.
                    latest_s = self._cut_at_s(job, job.assignment)
                    await self._interruptible(job, self._pausing.until_free(latest_s))
                    await self._interruptible(job, self._room.until_free(latest_s))
                    await self._settle()
                    await self._carry_out(job, job.assignment)
                if job.finished is not None:
                    await self._deliver(job, job.finished)
            except OutOfMemory as error:
                self._failed(job, error)
                await self._release()
            except DISK_FAULTS as error:
                self._room.missed(error)  # told first: nobody asks again who says that it rests
                self._failed(job, error)
            except FedFleetError as error:
                self._failed(job, error)

    async def _release(self) -> None:
        """Let the next assignment find the device as the first one did, as far as it can be."""

        def release() -> None:
            self._bench.forget()
            release_memory()

        try:
            await self._thread(release)
        except FedFleetError as error:  # CUDA refuses even that after some errors
            logger.warning(
                "memory_not_released", extra={"code": error.code, "detail": error.detail}
            )

    def _failed(self, job: Job, error: FedFleetError) -> None:
        unwanted = job.cancelled.is_set() or isinstance(error, AssignmentClosed)
        result = "abandoned" if unwanted else "failed"
        self._metrics.assignments.labels(result).inc()
        logger.warning(
            f"assignment_{result}",
            extra={"code": error.code, "reason": error.message, "detail": error.detail},
        )
        if not unwanted:
            failure = pb.AssignmentFailure(
                assignment_id=job.assignment_id,
                code=error.code,
                message=error.message[:MAX_REASON],
            )
            self._send(pb.ConnectRequest(failure=failure))

    async def _carry_out(self, job: Job, assignment: pb.Assignment) -> None:
        if self._speeds is not None:
            await self._look(job, assignment, self._speeds)
        version, broadcast = await self._inputs(job, assignment)
        _check_wanted(job)
        if assignment.kind in (pb.ASSIGNMENT_KIND_EVALUATE, pb.ASSIGNMENT_KIND_PROBE):
            is_probe = assignment.kind == pb.ASSIGNMENT_KIND_PROBE
            measure = self._bench.probe if is_probe else self._bench.evaluate

            def evaluate() -> Evaluation:
                return measure(
                    assignment, version, self._disk.memory(assignment.run_id, assignment.level)
                )

            evaluation = await self._thread(evaluate)
            report = pb.EvaluationReport(
                assignment_id=job.assignment_id, evaluation=evaluation_to_message(evaluation)
            )
            self._send(pb.ConnectRequest(evaluation=report))
            self._metrics.assignments.labels("evaluated").inc()
            return
        if assignment.kind == pb.ASSIGNMENT_KIND_QUERY:
            statistics = await self._thread(lambda: self._bench.query(assignment, version))
            self._send(pb.ConnectRequest(statistics=statistics))
            self._metrics.assignments.labels("measured").inc()
            return
        job.finished = await self._train(job, assignment, version, broadcast)

    async def _look(self, job: Job, assignment: pb.Assignment, speeds: Speeds) -> None:
        """Have the device measured where the run asks for it; a pause ends that, to begin anew."""

        def ended() -> bool:
            return job.cancelled.is_set() or bool(self._pausing.reason)

        while True:
            try:
                return await self._thread(lambda: speeds.look(assignment, ended))
            except AssignmentClosed:
                _check_wanted(job)
            latest_s = self._cut_at_s(job, assignment)
            await self._interruptible(job, self._pausing.until_free(latest_s))

    async def _train(
        self, job: Job, assignment: pb.Assignment, version: bytes, broadcast: list[bytes]
    ) -> Finished:
        loop = asyncio.get_running_loop()
        last = [0.0]
        stint = Stint(
            self._pausing, self._memory, job.cancelled.is_set, self._cut_at_s(job, assignment)
        )

        def on_progress(done: float) -> None:
            now = time.monotonic()
            if now - last[0] >= PROGRESS_S:
                last[0] = now
                loop.call_soon_threadsafe(self._progress, job.assignment_id, done)

        def train_and_keep() -> Finished:
            self._memory.begin()
            with self._metrics.train_duration.time():
                update, memory = self._bench.train(
                    assignment,
                    version,
                    broadcast,
                    self._disk.memory(assignment.run_id, assignment.level),
                    on_progress,
                    stint.cancelled,
                    stint.is_over,
                )
            return self._disk.keep(update, memory)

        finished = await self._thread(train_and_keep)
        self._finish_s = {(assignment.run_id, assignment.level): stint.since_last_step_s}
        share = finished.header.metrics.get(PARTIAL)
        if share is not None:
            logger.info("training_cut_short", extra={"done_ratio": round(share, 4)})
        return finished

    def _cut_at_s(self, job: Job, assignment: pb.Assignment) -> float:
        """When training has to end for its update to arrive by the deadline."""
        key = (assignment.run_id, assignment.level)
        size_bytes = self._sizes_bytes.get(key, assignment.base_bytes)
        after_s = self._finish_s.get(key, 0.0) + self._links.up.takes_s(size_bytes)
        return cut_at_s(job.ends_s, assignment.deadline_s, self._margin_s, after_s)

    def _progress(self, assignment_id: str, done: float) -> None:
        progress = pb.AssignmentProgress(assignment_id=assignment_id, done_ratio=done)
        self._send(pb.ConnectRequest(progress=progress))

    async def _inputs(self, job: Job, assignment: pb.Assignment) -> tuple[bytes, list[bytes]]:
        """The version to start from and what comes along with it.

        What is missing is downloaded, however long it takes.
        """
        versions = self._versions
        for _ in range(STUCK):
            _check_wanted(job)
            route = await self._thread(lambda: versions.route(assignment))
            missing = await self._thread(partial(versions.missing, assignment, route))
            fetched: dict[str, bytes] = {}
            for digest, size_bytes in missing:
                download = Download(
                    digest, size_bytes, self._bench.worker_id, self._metrics, self._links
                )
                fetched[digest] = await self._persist(job, download)
                await self._thread(partial(versions.keep, digest, fetched[digest]))
            assemble = partial(versions.assemble, assignment, route, fetched)
            version = await self._thread(assemble)
            broadcast = await self._thread(partial(versions.broadcast, assignment, fetched))
            if version is not None and broadcast is not None:
                # What a query looks at is nobody's next start.
                if assignment.kind != pb.ASSIGNMENT_KIND_QUERY:
                    await self._thread(partial(versions.forget_others, assignment))
                return version, broadcast
        raise ChecksumMismatch("the disk does not keep what was downloaded; check the device")

    async def _deliver(self, job: Job, finished: Finished) -> None:
        header = finished.header
        self._sizes_bytes = {(header.run_id, header.level): header.payload_bytes}
        await self._persist(job, Upload(finished, self._metrics, self._links))
        job.finished = None
        self._unsettled.append(finished)
        try:
            await self._settle()
        except DISK_FAULTS as error:
            self._room.missed(error)
        self._metrics.assignments.labels("delivered").inc()
        logger.info("update_delivered", extra={"size_bytes": header.payload_bytes})

    async def _settle(self) -> None:
        """Install the memories that go with updates that counted, before anything uses them.

        Raises:
            StoreFull, StoreUnavailable: the disk does not let us. The update stays on it: should
                the process end, it is offered again, and its receipt comes again.
        """
        while self._unsettled:
            await self._thread(partial(self._disk.delivered, self._unsettled[0]))
            del self._unsettled[0]

    async def _persist(self, job: Job, transfer: Transfer[T]) -> T:
        """Transfer, for as long as the job is wanted."""
        return await self._interruptible(job, self._attempts(transfer))

    async def _interruptible(self, job: Job, work: Coroutine[None, None, T]) -> T:
        """Await something in which the task of a cancelled job is ended."""
        job.interruptible = True
        try:
            _check_wanted(job)
            return await work
        finally:
            work.close()  # one that was not begun, since nobody wants it
            job.interruptible = False

    async def _attempts(self, transfer: Transfer[T]) -> T:
        """Try until it succeeds, can never succeed, or was refused too often at one place."""
        furthest, stuck, waits = -1, 0, self._backoff()
        while True:
            await self._pausing.look()  # the network may have changed since the last one
            await self._pausing.until_network()
            try:
                return await self._attempt(transfer)
            except FedFleetError as error:
                if transfer.offset_bytes > furthest:
                    # It moves: a link that is cut often is no reason to wait long.
                    furthest, stuck, waits = transfer.offset_bytes, 0, self._backoff()
                elif _may_be_mended(error):
                    stuck += 1
                if stuck == STUCK or not _is_worth_another(error):
                    raise
                logger.info(
                    "transfer_interrupted",
                    extra={
                        "code": error.code,
                        "reason": error.message,
                        "offset_bytes": transfer.offset_bytes,
                    },
                )
            await asyncio.sleep(next(waits))

    async def _attempt(self, transfer: Transfer[T]) -> T:
        """One attempt.

        Raises:
            Unavailable: the network became a metered one meanwhile.
        """
        attempt = asyncio.ensure_future(self._transfer(transfer))
        metered = asyncio.ensure_future(self._pausing.until_metered())
        try:
            await asyncio.wait((attempt, metered), return_when=asyncio.FIRST_COMPLETED)
            if attempt.done():
                return attempt.result()
            raise Unavailable("the network is a metered one now: the transfer goes on later")
        finally:
            attempt.cancel()
            metered.cancel()
            await asyncio.gather(attempt, metered, return_exceptions=True)

    async def _transfer(self, transfer: Transfer[T]) -> T:
        return await transfer.run(await self._dial())

    async def _thread(self, work: Callable[[], T]) -> T:
        """Run blocking work; its log lines name the assignment."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, context.run, _supervised, work)


def _supervised(work: Callable[[], T]) -> T:
    """A fault that nobody foresaw, a plug-in's above all, fails the assignment, not the worker.

    Caught in the thread, since asyncio hangs on a StopIteration that leaves it.
    """
    try:
        with out_of_memory():
            return work()
    except FedFleetError:
        raise
    except Exception as error:
        logger.exception("training_crashed")
        raise TrainingFailed(
            f"training crashed on this device: {type(error).__name__}; its log says more"
        ) from error


def _check_wanted(job: Job) -> None:
    if job.cancelled.is_set():
        raise AssignmentClosed("the assignment was cancelled meanwhile")


def _may_be_mended(error: FedFleetError) -> bool:
    """Whether a transfer that ended so may go better from where it stopped, though not for ever.

    The error of no kind is a fault that the coordinator did not foresee.
    """
    return isinstance(error, (TransferInvalid, ChecksumMismatch)) or type(error) is FedFleetError


def _is_worth_another(error: FedFleetError) -> bool:
    """Whether another attempt of a transfer may succeed; certificates are renewed beside it."""
    return error.retryable or _may_be_mended(error) or isinstance(error, Unauthenticated)
