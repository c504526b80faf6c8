"""Which requests the candidate answers, and how it does on those that it is shown beside."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from fedfleet.data.images import Pixels
from fedfleet.errors import FedFleetError, Unavailable
from fedfleet_inference_api.agreement import agreement
from fedfleet_inference_api.backends.backend import Answers
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.blame import fault_of
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.predictor import SHADOW_PLACES, Predictor
from fedfleet_inference_api.servable import Servable

CANARY = "canary"
SHADOW = "shadow"


def falls_in(share: float, purpose: str, request_id: str) -> bool:
    """Whether a request is of a share in [0, 1]; the same id always is, or never.

    Args:
        purpose: whom the share is for; those of two are independent.
    """
    digest = hashlib.sha256(f"{purpose}:{request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass(frozen=True)
class Standing:
    """How a candidate has agreed with what callers were answered.

    Args:
        mirrored: images that both have answered.
        agreement: mean over them, in [0, 1]; 0 of none.
    """

    mirrored: int = 0
    agreement: float = 0.0


class Shadow:
    """Shows callers' images to the candidate and compares; nobody waits for it.

    Args:
        failed: told of a version that gave no answer.
    """

    def __init__(
        self,
        predictor: Predictor,
        metrics: Metrics,
        failed: Callable[[Servable, FedFleetError], object],
    ) -> None:
        self._predictor = predictor
        self._metrics = metrics
        self._failed = failed
        self._lock = threading.Lock()
        self._candidate: Servable | None = None
        self._mirrored = 0
        self._sum = 0.0
        # Two detectors' boxes take longer to compare than the model's thread has time for.
        self._comparer = ThreadPoolExecutor(1, "shadow")
        self._comparing = 0  # answers that wait for it, or are compared

    def standing(self, candidate: Servable) -> Standing:
        """Of this candidate since it was loaded."""
        with self._lock:
            if candidate is not self._candidate or not self._mirrored:
                return Standing()
            return Standing(self._mirrored, self._sum / self._mirrored)

    def mirror(
        self, answered: Servable, candidate: Servable, image: Pixels, answer: Answers
    ) -> None:
        """Have the candidate answer the same image when it is its turn, or not at all.

        Args:
            image: as the answering version saw it, uint8 (C, H, W).
            answer: what that version gave.
        """
        if not _are_comparable(answered, candidate):
            self._metrics.shadow.labels("incomparable").inc()
            return
        try:
            future = self._predictor.submit(candidate, image, lane="shadow")
        except Unavailable:
            self._metrics.shadow.labels("dropped").inc()
            return
        kept = answer.copy()  # it may be a row of a batch, all of which would be kept with it
        future.add_done_callback(lambda done: self._answered(answered, candidate, kept, done))

    def close(self) -> None:
        """Wait for what is compared, drop what waits; the predictor is closed already."""
        self._comparer.shutdown(cancel_futures=True)

    def _answered(
        self, answered: Servable, candidate: Servable, answer: Answers, done: Future[Forwarded]
    ) -> None:
        """On the model's thread, when the candidate's turn has been."""
        error = None if done.cancelled() else done.exception()
        fault = fault_of(error)
        if fault is not None:
            self._metrics.shadow.labels("failed").inc()
            self._failed(candidate, fault)
        elif done.cancelled() or error is not None or not self._has_room():
            self._metrics.shadow.labels("dropped").inc()
        else:
            self._comparer.submit(self._compare, answered, candidate, answer, done.result().answer)

    def _has_room(self) -> bool:
        """Take a place among those that are compared, where there is one."""
        with self._lock:
            if self._comparing >= SHADOW_PLACES:
                return False
            self._comparing += 1
            return True

    def _compare(
        self, answered: Servable, candidate: Servable, answer: Answers, other: Answers
    ) -> None:
        try:
            score = agreement(answered.card, answer, other)
        finally:
            with self._lock:
                self._comparing -= 1
        self._metrics.shadow.labels("compared").inc()
        self._metrics.agreement.observe(score)
        self._note(candidate, score)

    def _note(self, candidate: Servable, score: float) -> None:
        with self._lock:
            if candidate is not self._candidate:
                self._candidate, self._mirrored, self._sum = candidate, 0, 0.0
            self._mirrored += 1
            self._sum += score


def _are_comparable(left: Servable, right: Servable) -> bool:
    """Whether two versions see the same pixels and name the same classes."""
    a, b = left.card, right.card
    return (a.kind, a.classes, a.inputs.channels, a.inputs.height, a.inputs.width) == (
        b.kind,
        b.classes,
        b.inputs.channels,
        b.inputs.height,
        b.inputs.width,
    )
