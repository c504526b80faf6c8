"""Carries out assignments one after the other, whether or not the stream is up.

An assignment lives here from its push until its receipt, its report, or its cancellation: the
stream may break and come back meanwhile, and the coordinator may be another process.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from fedfleet.errors import (
    AssignmentClosed,
    ChecksumMismatch,
    FedFleetError,
    TrainingFailed,
    TransferInvalid,
)
from fedfleet.obs.logs import log_context
from fedfleet.rpc.retry import backoff_s
from fedfleet.types import Evaluation
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_to_message
from fedfleet.wire.limits import MAX_REASON
from fedfleet_worker.disk import Disk, Finished
from fedfleet_worker.metrics import WorkerMetrics
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

    ``cancelled`` may be set from any thread; ``transferring`` while the task may be cancelled.
    """

    def __init__(self, assignment_id: str, assignment: pb.Assignment | None) -> None:
        self.assignment_id = assignment_id
        self.assignment = assignment
        self.finished: Finished | None = None
        self.cancelled = threading.Event()
        self.transferring = False
        self.task: asyncio.Task[None] | None = None


class Workbench:
    """Holds the jobs.

    Args:
        threads: where training runs; one thread, since torch's settings are global to a process.
        send: puts a message on the stream when there is one.
        backoff: makes the waits between the attempts of one transfer.
    """

    def __init__(
        self,
        bench: Bench,
        disk: Disk,
        stub: FederationServiceAsyncStub,
        metrics: WorkerMetrics,
        threads: Executor,
        send: Callable[[pb.ConnectRequest], None],
        backoff: Callable[[], Iterator[float]] = transfer_backoff_s,
    ) -> None:
        self._bench = bench
        self._versions = Versions(bench, disk)
        self._disk = disk
        self._stub = stub
        self._metrics = metrics
        self._send = send
        self._backoff = backoff
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._jobs: dict[str, Job] = {}
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
        if job.task is not None and job.transferring:
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
        self._queue.put_nowait(job)

    async def _let_go(self, job: Job) -> None:
        """Forget a job; an update that is still on disk was given up or refused."""
        self._jobs.pop(job.assignment_id, None)
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
                    await self._carry_out(job, job.assignment)
                if job.finished is not None:
                    await self._deliver(job, job.finished)
            except FedFleetError as error:
                self._failed(job, error)

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
        version, broadcast = await self._inputs(job, assignment)
        _check_wanted(job)
        if assignment.kind in (pb.ASSIGNMENT_KIND_EVALUATE, pb.ASSIGNMENT_KIND_PROBE):
            is_probe = assignment.kind == pb.ASSIGNMENT_KIND_PROBE
            measure = self._bench.probe if is_probe else self._bench.evaluate

            def evaluate() -> Evaluation:
                return measure(assignment, version, self._disk.memory(assignment.run_id))

            evaluation = await self._thread(evaluate)
            report = pb.EvaluationReport(
                assignment_id=job.assignment_id, evaluation=evaluation_to_message(evaluation)
            )
            self._send(pb.ConnectRequest(evaluation=report))
            self._metrics.assignments.labels("evaluated").inc()
            return
        job.finished = await self._train(job, assignment, version, broadcast)

    async def _train(
        self, job: Job, assignment: pb.Assignment, version: bytes, broadcast: list[bytes]
    ) -> Finished:
        loop = asyncio.get_running_loop()
        last = [0.0]

        def on_progress(done: float) -> None:
            now = time.monotonic()
            if now - last[0] >= PROGRESS_S:
                last[0] = now
                loop.call_soon_threadsafe(self._progress, job.assignment_id, done)

        def train_and_keep() -> Finished:
            with self._metrics.train_duration.time():
                update, memory = self._bench.train(
                    assignment,
                    version,
                    broadcast,
                    self._disk.memory(assignment.run_id),
                    on_progress,
                    job.cancelled.is_set,
                )
            return self._disk.keep(update, memory)

        return await self._thread(train_and_keep)

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
                download = Download(digest, size_bytes, self._bench.worker_id, self._metrics)
                fetched[digest] = await self._persist(job, download)
                await self._thread(partial(versions.keep, digest, fetched[digest]))
            assemble = partial(versions.assemble, assignment, route, fetched)
            version = await self._thread(assemble)
            broadcast = await self._thread(partial(versions.broadcast, assignment, fetched))
            if version is not None and broadcast is not None:
                await self._thread(partial(versions.forget_others, assignment))
                return version, broadcast
        raise ChecksumMismatch("the disk does not keep what was downloaded; check the device")

    async def _deliver(self, job: Job, finished: Finished) -> None:
        await self._persist(job, Upload(finished, self._metrics))
        await self._thread(lambda: self._disk.delivered(finished))
        self._metrics.assignments.labels("delivered").inc()
        logger.info("update_delivered", extra={"size_bytes": finished.header.payload_bytes})

    async def _persist(self, job: Job, transfer: Transfer[T]) -> T:
        """Transfer, for as long as the job is wanted: a cancelled one's task is ended in here."""
        _check_wanted(job)
        job.transferring = True
        try:
            return await self._attempts(transfer)
        finally:
            job.transferring = False

    async def _attempts(self, transfer: Transfer[T]) -> T:
        """Try until it succeeds, can never succeed, or was refused too often at one place."""
        furthest, stuck, waits = -1, 0, self._backoff()
        while True:
            try:
                return await transfer.run(self._stub)
            except FedFleetError as error:
                if transfer.offset_bytes > furthest:
                    # It moves: a link that is cut often is no reason to wait long.
                    furthest, stuck, waits = transfer.offset_bytes, 0, self._backoff()
                elif _may_be_mended(error):
                    stuck += 1
                if stuck == STUCK or not (error.retryable or _may_be_mended(error)):
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
