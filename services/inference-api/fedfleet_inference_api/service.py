"""The inference service without HTTP: its parts, what is served, and whether it can answer."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

from fedfleet.data.images import Pixels
from fedfleet.errors import (
    ChecksumMismatch,
    FedFleetError,
    NoModel,
    SignatureInvalid,
    VersionInvalid,
)
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_inference_api.backends.choice import Backends
from fedfleet_inference_api.batcher import Forwarded
from fedfleet_inference_api.blame import fault_of
from fedfleet_inference_api.cameras.station import Station
from fedfleet_inference_api.canary import Shadow
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.follower import Course, Follower
from fedfleet_inference_api.following import Following
from fedfleet_inference_api.image_url import ImageUrls
from fedfleet_inference_api.metrics import Metrics
from fedfleet_inference_api.pinned import Pinned
from fedfleet_inference_api.predictor import Predictor
from fedfleet_inference_api.servable import Servable, load_servable
from fedfleet_inference_api.signature_check import SignatureCheck

logger = logging.getLogger(__name__)


class InferenceService:
    """Owns the threads; does not own the store, which its maker closes after ``stop``."""

    def __init__(self, config: InferenceConfig, store: Store, signatures: SignatureCheck) -> None:
        self.config = config
        self.store = store
        self._signatures = signatures
        self.metrics = Metrics()
        # First: its settings may be wrong, and then no thread should be there.
        self.station = Station(config, look=self.served, submit=self.submit, metrics=self.metrics)
        self.predictor = Predictor(
            config.threads, config.max_pending, config.max_batch, self.metrics
        )
        self._backends = Backends(
            config.backend, max_batch=config.max_batch, threads=config.threads
        )
        self.follower = Follower(
            store.registry,
            self._load,
            self.metrics,
            _course(config),
            store.audit,
            actor=f"inference/{socket.gethostname()}",
            prepare=signatures.prepare,
            changed=self.station.tell_model,
        )
        self.pinned = Pinned(
            store.registry,
            self._load,
            lambda record: self.follower.following.at_hand(record),
            config.pinned_versions,
        )
        self.shadow = Shadow(self.predictor, self.metrics, self.follower.failed)
        self.images = (
            ImageUrls(config.image_urls, config.max_body_bytes) if config.image_urls else None
        )
        self.is_draining = False
        self.busy = 0  # predictions that are received, wait or run; of the event loop

    def _load(self, record: VersionRecord, alias: str) -> Servable:
        """Build a version and warm it up, or raise a FedFleetError that says why it is unfit."""
        try:
            return self._built(record, alias)
        except FedFleetError:
            raise
        except Exception as error:
            # The supervisor of a load: torch says with a RuntimeError that memory ends, and a
            # plug-in's module may raise anything. It is this version's trouble and nobody else's.
            logger.exception("load_failed", extra={"model": record.model, "version": record.number})
            raise VersionInvalid(
                f"it cannot be built or warmed up ({type(error).__name__}): see the service's log"
            ) from error

    def _built(self, record: VersionRecord, alias: str) -> Servable:
        is_signed = self._signatures.check(record)
        try:
            servable = load_servable(
                self.store.blobs,
                record,
                alias,
                level=self.config.serve_level,
                backends=self._backends,
                is_awaited=self.follower.following.current is None,
            )
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
        self.station.start()

    def stop(self) -> None:
        """Blocks until the threads are done."""
        self._backends.stop()  # first: a load that measures would be waited for
        self.station.stop()
        self.follower.stop()
        self.pinned.close()
        self._backends.close()
        self.predictor.close()
        self.shadow.close()

    def ready(self) -> tuple[bool, str]:
        """Whether predictions are answered, and a sentence that says what with, or why not."""
        following = self.follower.following
        if self.is_draining:
            return False, "shutting down"
        if following.current is None:
            reason = following.failure or f"no version is there yet: {self._wanted()}"
            return False, "; ".join(filter(None, (reason, self.station.fault)))
        served = f"serving {following.current.title}"
        if following.is_held:
            served += "; rolled back by hand: POST /served/follow ends that"
        return True, "; ".join(filter(None, (served, following.failure, self.station.fault)))

    def served(self, following: Following | None = None) -> Servable:
        """The version to answer with; a request asks once and keeps it to its end.

        Args:
            following: what is served, where the caller has looked at it already.

        Raises:
            NoModel: nothing has been loaded and warmed up yet.
        """
        following = following or self.follower.following
        if following.current is None:
            reason = following.failure or f"waiting for {self._wanted()}"
            raise NoModel(f"no model is served yet: {reason}")
        return following.current

    def submit(self, servable: Servable, image: Pixels) -> Future[Forwarded]:
        """Have an image of a camera answered, from any thread; a version that fails is noted.

        Raises:
            Unavailable: too many wait.
        """
        future = self.predictor.submit(servable, image)
        future.add_done_callback(lambda done: self._note(servable, done))
        return future

    def _note(self, servable: Servable, done: Future[Forwarded]) -> None:
        fault = None if done.cancelled() else fault_of(done.exception())
        if fault is not None:
            self.follower.failed(servable, fault)

    def _wanted(self) -> str:
        model = self.config.serve_model
        name = f"model {model!r}" if model else "any model"
        return f"alias {self.config.serve_alias!r} of {name}"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around each prediction, its upload included."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.busy += change
        self.metrics.pending.set(self.busy)


def _course(config: InferenceConfig) -> Course:
    has_candidate = config.canary_share > 0 or config.shadow_share > 0
    return Course(
        model=config.serve_model,
        alias=config.serve_alias,
        canary_alias=config.canary_alias if has_candidate else "",
        poll_s=config.registry_poll_s,
        rollback_failures=config.rollback_failures,
        rollback_window_s=config.rollback_window_s,
        moves_alias=config.rollback_alias,
    )
