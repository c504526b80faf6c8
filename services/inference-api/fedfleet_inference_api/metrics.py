"""Every metric of the inference service, and how they are written out."""

from __future__ import annotations

import math
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from fedfleet.store.protocols import VersionRecord

CONTENT_TYPE = CONTENT_TYPE_LATEST
REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
# Why an image is not computed at its turn: the caller has left, or its deadline has passed.
NOT_COMPUTED = ("gone", "late")
LOAD_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
AGE_BUCKETS_S = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
MOST_CAMERA_SERIES = 32
OTHER_CAMERAS = "_others"  # no camera can have this name
SKIP_REASONS = ("rate", "quiet", "busy", "no_model")

Stage = Literal["read", "decode", "queue", "forward"]
STAGES: tuple[Stage, ...] = ("read", "decode", "queue", "forward")
# Another version took over; could not be loaded; was left again; an older one stands in for it;
# the candidate was left; somebody went back by hand.
SWAP_RESULTS = ("swapped", "failed", "rolled_back", "fell_back", "candidate_dropped", "held")
# Of an image that the candidate is shown beside: "dropped" had no room or no time, "incomparable"
# are versions of other classes or another input.
SHADOW_RESULTS = ("compared", "dropped", "failed", "incomparable")
ARMS = ("current", "candidate")
AGREEMENT_BUCKETS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
# Which limit a connection was closed for: that of its address, or that of all together.
CONNECTION_LIMITS = ("address", "all")


class Metrics:
    """The service's metrics in a registry of their own, so that a process can hold two services.

    Labels are bounded: routes are path templates, codes those of ``fedfleet.errors``, and of
    versions only the served one has a series.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "fedfleet_inference_requests",
            "Requests answered.",
            ("route", "status"),
            registry=self.registry,
        )
        self.request_s = Histogram(
            "fedfleet_inference_request_duration_seconds",
            "Time from request to answer.",
            ("route",),
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )
        self.errors = Counter(
            "fedfleet_inference_errors",
            "Requests answered with an error, by its code.",
            ("code",),
            registry=self.registry,
        )
        self.stage_s = Histogram(
            "fedfleet_inference_stage_duration_seconds",
            "Time of each part of a prediction.",
            ("stage",),
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_images = Histogram(
            "fedfleet_inference_batch_images",
            "Images that the model computed together.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.not_computed = Counter(
            "fedfleet_inference_not_computed_images",
            "Images whose turn came when nobody wanted the answer any more, by why.",
            ("reason",),
            registry=self.registry,
        )
        self.pending = Gauge(
            "fedfleet_inference_pending_predictions",
            "Predictions that are received, wait or run.",
            registry=self.registry,
        )
        self.swaps = Counter(
            "fedfleet_inference_model_swaps",
            "Attempts to serve another version.",
            ("result",),
            registry=self.registry,
        )
        self.arms = Counter(
            "fedfleet_inference_canary_requests",
            "Requests of which the canary share decided who answers.",
            ("arm",),
            registry=self.registry,
        )
        self.shadow = Counter(
            "fedfleet_inference_shadow_predictions",
            "Images that were to be shown to the candidate beside, by what came of it.",
            ("result",),
            registry=self.registry,
        )
        self.agreement = Histogram(
            "fedfleet_inference_shadow_agreement_ratio",
            "Agreement of the candidate with what callers were answered: of classifiers 1 where "
            "the first answer is the same, of detectors the mean best overlap of their boxes.",
            buckets=AGREEMENT_BUCKETS,
            registry=self.registry,
        )
        self.refused_versions = Counter(
            "fedfleet_inference_refused_versions",
            "Attempts to load a version that ended with an error, by its code.",
            ("code",),
            registry=self.registry,
        )
        self.refused_connections = Counter(
            "fedfleet_inference_refused_connections",
            "Connections that were closed because there were too many.",
            ("limit",),
            registry=self.registry,
        )
        self.load_s = Histogram(
            "fedfleet_inference_model_load_duration_seconds",
            "Time to read, check, build and warm up a version.",
            buckets=LOAD_BUCKETS_S,
            registry=self.registry,
        )
        self.camera_viewers = Gauge(
            "fedfleet_inference_camera_viewers",
            "Callers that watch live pictures.",
            registry=self.registry,
        )
        self.kept_cameras_unusable = Gauge(
            "fedfleet_inference_kept_cameras_unusable",
            "1 where the file of the cameras that callers added cannot be used, else 0.",
            registry=self.registry,
        )
        self.events = Counter(
            "fedfleet_inference_events",
            "Events that were told, of cameras and of the model, by kind.",
            ("kind",),
            registry=self.registry,
        )
        self.mqtt_lost = Counter(
            "fedfleet_inference_mqtt_lost",
            "Events that were not sent to the broker because too many waited for it.",
            registry=self.registry,
        )
        self._served = Gauge(
            "fedfleet_inference_model_info",
            "The served version; the value is 1.",
            ("model", "version", "round", "digest"),
            registry=self.registry,
        )
        self._verified = Gauge(
            "fedfleet_inference_model_verified",
            "1 where the coordinator's signature over the served version was checked, else 0.",
            registry=self.registry,
        )
        self.certificate_ends = Gauge(
            "fedfleet_inference_certificate_end_timestamp_seconds",
            "When the certificate for HTTPS ends, since the epoch; NaN: there is none.",
            registry=self.registry,
        )
        self.certificate_ends.set(math.nan)
        self.cameras = CameraMetrics(self.registry)
        self._round = Gauge(
            "fedfleet_inference_model_round",
            "Round of the served version.",
            registry=self.registry,
        )
        for reason in NOT_COMPUTED:
            self.not_computed.labels(reason)
        for stage in STAGES:
            self.stage_s.labels(stage)
        for result in SWAP_RESULTS:
            self.swaps.labels(result)
        for limit in CONNECTION_LIMITS:
            self.refused_connections.labels(limit)
        for arm in ARMS:
            self.arms.labels(arm)
        for result in SHADOW_RESULTS:
            self.shadow.labels(result)

    def serve(self, record: VersionRecord, *, is_verified: bool) -> None:
        """Say which version is served from now on."""
        self._served.clear()
        self._served.labels(record.model, record.number, record.round, record.digest[:12]).set(1)
        self._round.set(record.round)
        self._verified.set(is_verified)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class CameraMetrics:
    """What is measured of cameras' frames; cameras beyond the first 32 share a series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._named: set[str] = set()
        self.frame_age_s = Histogram(
            "fedfleet_inference_camera_frame_age_seconds",
            "Time from a frame having been decoded until the model's answer has been read.",
            ("camera",),
            buckets=AGE_BUCKETS_S,
            registry=registry,
        )
        self.looks = Counter(
            "fedfleet_inference_camera_looks",
            "Frames that a model answered.",
            ("camera",),
            registry=registry,
        )
        self.skipped = Counter(
            "fedfleet_inference_camera_skipped_frames",
            "Frames that no model saw, by reason: rate, quiet, busy or no_model.",
            ("camera", "reason"),
            registry=registry,
        )
        self.motion = Gauge(
            "fedfleet_inference_camera_motion_ratio",
            "Share of the picture that differs from the background, of the frame watched last.",
            ("camera",),
            registry=registry,
        )
        self.failures = Counter(
            "fedfleet_inference_camera_failures",
            "Frames that could not be dealt with; the log says why.",
            ("camera",),
            registry=registry,
        )

    def label(self, camera: str) -> str:
        """The name under which a camera is measured."""
        if camera in self._named:
            return camera
        is_full = len(self._named) >= MOST_CAMERA_SERIES
        name = OTHER_CAMERAS if is_full else camera
        if name not in self._named:
            self._named.add(name)
            for metric in (self.frame_age_s, self.looks, self.motion, self.failures):
                metric.labels(name)
            for reason in SKIP_REASONS:
                self.skipped.labels(name, reason)
        return name

    def forget(self, camera: str) -> None:
        """Drop the series of a camera that was removed."""
        if camera not in self._named:
            return
        self._named.remove(camera)
        for metric in (self.frame_age_s, self.looks, self.motion, self.failures):
            metric.remove(camera)
        for reason in SKIP_REASONS:
            self.skipped.remove(camera, reason)
