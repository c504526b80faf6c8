"""The inference service without HTTP: what is served, and how one image is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fastapi import Request

from fedfleet.data.decode import decode_image, fit_pixels
from fedfleet.data.images import Pixels
from fedfleet.errors import ChecksumMismatch, InvalidInput, NoModel, SignatureInvalid, TimedOut
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_inference_api.answers import (
    Latency,
    PredictAnswer,
    Prediction,
    model_ref,
)
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.follower import Follower
from fedfleet_inference_api.metrics import Metrics, Stage
from fedfleet_inference_api.predictor import Forwarded, Predictor
from fedfleet_inference_api.servable import Servable, load_servable
from fedfleet_inference_api.signature_check import SignatureCheck
from fedfleet_inference_api.uploads import image_bytes, read_upload

DEFAULT_K = 5


class InferenceService:
    """Owns the threads; does not own the store, which its maker closes after ``stop``."""

    def __init__(self, config: InferenceConfig, store: Store, signatures: SignatureCheck) -> None:
        self.config = config
        self.store = store
        self._signatures = signatures
        self.metrics = Metrics()
        self.predictor = Predictor(config.threads, config.max_pending)
        self.follower = Follower(
            store.registry,
            self._load,
            self.metrics,
            model=config.serve_model,
            alias=config.serve_alias,
            poll_s=config.registry_poll_s,
            prepare=signatures.prepare,
        )
        self.is_draining = False
        self.busy = 0  # predictions that are received, wait or run; of the event loop

    def _load(self, record: VersionRecord, alias: str) -> Servable:
        is_signed = self._signatures.check(record)
        try:
            servable = load_servable(self.store.blobs, record, alias)
        except ChecksumMismatch as error:
            if is_signed:  # the signature covers the digest
                raise SignatureInvalid(
                    f"what was signed is another file: {error.message}"
                ) from error
            raise
        servable = replace(servable, is_verified=is_signed)
        self.predictor.warm_up(servable)
        return servable

    def start(self) -> None:
        self.follower.start()

    def stop(self) -> None:
        """Blocks until the threads are done."""
        self.follower.stop()
        self.predictor.close()

    def ready(self) -> tuple[bool, str]:
        """Whether predictions are answered, and a sentence that says what with, or why not."""
        following = self.follower.following
        if self.is_draining:
            return False, "shutting down"
        if following.current is None:
            return False, following.failure or f"no version is there yet: {self._wanted()}"
        served = f"serving {following.current.title}"
        return True, f"{served}; {following.failure}" if following.failure else served

    def served(self) -> Servable:
        """The version to answer with; a request asks once and keeps it to its end.

        Raises:
            NoModel: nothing has been loaded and warmed up yet.
        """
        following = self.follower.following
        if following.current is None:
            reason = following.failure or f"waiting for {self._wanted()}"
            raise NoModel(f"no model is served yet: {reason}")
        return following.current

    def _wanted(self) -> str:
        model = self.config.serve_model
        name = f"model {model!r}" if model else "any model"
        return f"alias {self.config.serve_alias!r} of {name}"

    async def predict(self, request: Request, k: int | None) -> PredictAnswer:
        """Answer the image in the request.

        Args:
            k: number of classes to name, None for five or all there are.

        Raises:
            Unavailable: too many predictions are waiting.
            TimedOut: it took longer than the config allow.
            NoModel, InvalidInput, ImageInvalid, ImageTooLarge: see there.
        """
        with self._counted():
            try:
                return await asyncio.wait_for(
                    self._predict(request, k), self.config.request_timeout_s
                )
            except asyncio.TimeoutError as error:
                raise TimedOut(
                    f"the prediction took more than {self.config.request_timeout_s:g} s, "
                    "its upload included"
                ) from error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.busy += change
        self.metrics.pending.set(self.busy)

    async def _predict(self, request: Request, k: int | None) -> PredictAnswer:
        times = _Stopwatch(self.metrics)
        self.predictor.check_room()  # before its bytes are sent for nothing
        media_type, body = await read_upload(request)
        times.lap("read")
        # Only now: a caller that sends slowly holds nobody's place.
        with self.predictor.admitted():
            return await self._answer(media_type, body, k, times)

    async def _answer(
        self, media_type: str, body: bytes, k: int | None, times: _Stopwatch
    ) -> PredictAnswer:
        servable = self.served()
        count = _count(k, servable)

        def decode() -> Pixels:
            spec = servable.card.inputs
            return fit_pixels(
                decode_image(image_bytes(media_type, body)),
                channels=spec.channels,
                height=spec.height,
                width=spec.width,
            )

        image = await self.predictor.decode(decode)
        times.lap("decode")
        forwarded = await self.predictor.forward(servable, image)
        times.add("queue", forwarded.queue_s)
        times.add("forward", forwarded.forward_s)
        return PredictAnswer(
            predictions=_best(servable, forwarded, count),
            model=model_ref(servable),
            latency_ms=times.latency(),
        )


def _count(k: int | None, servable: Servable) -> int:
    classes = len(servable.card.classes)
    if k is None:
        return min(DEFAULT_K, classes)
    if k > classes:
        raise InvalidInput(f"k = {k}: {servable.record.model} has {classes} classes")
    return k


def _best(servable: Servable, forwarded: Forwarded, count: int) -> list[Prediction]:
    """The most probable classes; of equal ones the first."""
    order = (-forwarded.probabilities).argsort(kind="stable")[:count]
    return [
        Prediction(
            label=servable.card.classes[index],
            index=int(index),
            probability=float(forwarded.probabilities[index]),
        )
        for index in order
    ]


class _Stopwatch:
    """The parts of one prediction, in seconds."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started_s = self._lap_s = time.perf_counter()
        self._parts: dict[Stage, float] = {}

    def lap(self, stage: Stage) -> None:
        now_s = time.perf_counter()
        self.add(stage, now_s - self._lap_s)
        self._lap_s = now_s

    def add(self, stage: Stage, seconds: float) -> None:
        self._parts[stage] = seconds
        self._metrics.stage_s.labels(stage).observe(seconds)

    def latency(self) -> Latency:
        parts = {stage: round(1000 * seconds, 3) for stage, seconds in self._parts.items()}
        total = round(1000 * (time.perf_counter() - self._started_s), 3)
        return Latency(**parts, total=total)
