"""Runs the model on one thread and the image decoders on a few, off the event loop and bounded."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
import torch
from starlette.requests import ClientDisconnect

from fedfleet.data.images import Pixels
from fedfleet.errors import FedFleetError, TimedOut, Unavailable
from fedfleet_inference_api.batcher import Batcher, Forwarded, Job, Lane, Taken
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.servable import Servable

T = TypeVar("T")

DECODERS = 2  # each may hold an image of 24 megapixels
CAMERA_PLACES = 16  # images of cameras that may wait; a camera has one under way at most
SHADOW_PLACES = 16

Outcome = tuple[Job, Forwarded | BaseException]


class Predictor:
    """One thread for the model: it computes in batches what has queued up before it.

    Args:
        threads: processor threads inside torch, 0 leaves torch's own number.
        max_pending: predictions that may wait or run; the next one is refused.
        max_batch: images that are computed together.
        metrics: of the service; None keeps them for nobody.
    """

    def __init__(
        self,
        threads: int,
        max_pending: int,
        max_batch: int = 8,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._max_pending = max_pending
        self._pending = 0  # changed on the event loop only
        self.max_batch = max_batch
        limits: dict[Lane, int] = {
            "callers": max_pending,
            "cameras": CAMERA_PLACES,
            "shadow": SHADOW_PLACES,
        }
        self._batcher = Batcher(max_batch, limits)
        self._lock = threading.Lock()  # of the batcher
        self._is_closed = False
        # A turn is one batch. Between two, whatever else was given to the thread has its turn.
        self._has_turn = False
        self._model_thread = ThreadPoolExecutor(
            1, "model", initializer=_set_threads, initargs=(threads,)
        )
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")

    @property
    def pending(self) -> int:
        return self._pending

    @contextmanager
    def admitted(self, images: int = 1) -> Iterator[None]:
        """Hold places in the queue.

        Raises:
            Unavailable: so many places are not free.
        """
        self.check_room(images)
        self._pending += images
        try:
            yield
        finally:
            self._pending -= images

    def check_room(self, images: int = 1) -> None:
        """Raise Unavailable where so many places are not free."""
        if self._pending + images > self._max_pending:
            raise Unavailable(
                f"{self._pending} predictions are waiting or running already: try again in a second"
            )

    async def decode(self, work: Callable[[], T]) -> T:
        """Run something that parses a caller's bytes. Dropped if the caller left the queue."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def forward(
        self,
        servable: Servable,
        image: Pixels,
        *,
        deadline_s: float | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> Forwarded:
        """Answer one image of shape (C, H, W), together with others that wait.

        Args:
            deadline_s: moment on ``time.monotonic``; whose turn comes later is not computed.
            is_gone: whether whoever asked has left; asked by the model's thread at its turn. Who
                cancels is gone anyway.

        Raises:
            Unavailable: too many wait.
            TimedOut: its turn came after the deadline.
            ClientDisconnect: whoever asked has left by then.
            VersionInvalid: the model's answer is no answer.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Forwarded] = loop.create_future()
        job = Job(servable, image, "callers", time.monotonic(), future, loop, deadline_s)
        if is_gone is not None:
            job.is_gone = is_gone
        self._put(job)
        return await future

    def submit(
        self, servable: Servable, image: Pixels, *, lane: Lane = "cameras"
    ) -> concurrent.futures.Future[Forwarded]:
        """As ``forward``, from any thread, in a lane of its own beside the callers'.

        Cancel the future of an answer that nobody wants any more.

        Raises:
            Unavailable: too many wait in that lane.
        """
        future: concurrent.futures.Future[Forwarded] = concurrent.futures.Future()
        self._put(Job(servable, image, lane, time.monotonic(), future))
        return future

    def warm_up(self, servable: Servable) -> None:
        """Let the model's own thread answer one image and a full batch, each as a turn of its own.

        Blocks, so call it from another thread.

        Raises:
            VersionInvalid: the model's answer is no answer.
        """
        for images in sorted({1, self.max_batch}):
            self._model_thread.submit(servable.warm_up, images).result()

    def close(self) -> None:
        """Wait for what runs, drop what waits."""
        with self._lock:
            self._is_closed = True
            dropped = self._batcher.clear()
        _settle((job, Unavailable("the service is shutting down")) for job in dropped)
        self._decoders.shutdown(cancel_futures=True)
        self._model_thread.shutdown(cancel_futures=True)

    def _put(self, job: Job) -> None:
        with self._lock:
            if self._is_closed:
                raise Unavailable("the service is shutting down")
            self._batcher.put(job)
            self._ask_for_turn()

    def _ask_for_turn(self) -> None:
        """The lock is held."""
        if not self._has_turn and not self._is_closed:
            self._has_turn = True
            self._model_thread.submit(self._take_turn)

    def _take_turn(self) -> None:
        started_s = time.monotonic()
        with self._lock:
            taken = self._batcher.take(started_s)
        self._count(taken)
        try:
            _settle((job, ClientDisconnect()) for job in taken.gone)
            _settle((job, _too_late(started_s - job.asked_s)) for job in taken.late)
            _settle(_compute(taken.batch, started_s))
        finally:
            with self._lock:
                self._has_turn = False
                if len(self._batcher):
                    self._ask_for_turn()

    def _count(self, taken: Taken) -> None:
        if taken.batch:
            self._metrics.batch_images.observe(len(taken.batch))
        for reason, jobs in (("gone", taken.gone), ("late", taken.late)):
            if jobs:
                self._metrics.not_computed.labels(reason).inc(len(jobs))


def _compute(batch: tuple[Job, ...], started_s: float) -> list[Outcome]:
    """Answer jobs that are of one version."""
    if not batch:
        return []
    servable = batch[0].servable
    try:
        answers = servable.run(np.stack([job.image for job in batch]))
    except FedFleetError as error:
        return [(job, error) for job in batch]
    except BaseException as error:
        _settle((job, error) for job in batch)
        raise
    forward_s = time.monotonic() - started_s
    outcomes: list[Outcome] = []
    for job, answer in zip(batch, answers, strict=True):
        fault = servable.fault(answer)
        queue_s = started_s - job.asked_s
        outcomes.append((job, fault or Forwarded(answer, queue_s, forward_s, len(batch))))
    return outcomes


def _too_late(waited_s: float) -> TimedOut:
    return TimedOut(f"the prediction waited {waited_s:.3g} s for the model, past its deadline")


def _settle(outcomes: Iterable[Outcome]) -> None:
    """Hand out results: to an event loop all of one batch at once, for each call wakes it up."""
    of_loop: dict[asyncio.AbstractEventLoop, list[Outcome]] = {}
    for outcome in outcomes:
        job = outcome[0]
        if job.loop is None:
            _resolve(outcome)
        else:
            of_loop.setdefault(job.loop, []).append(outcome)
    for loop, those in of_loop.items():
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(_resolve_all, those)


def _resolve_all(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        _resolve(outcome)


def _resolve(outcome: Outcome) -> None:
    job, result = outcome
    if job.future.done():  # cancelled meanwhile
        return
    if isinstance(result, BaseException):
        job.future.set_exception(result)
    else:
        job.future.set_result(result)


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
