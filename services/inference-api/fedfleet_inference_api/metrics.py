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
LOAD_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

Stage = Literal["read", "decode", "queue", "forward"]
STAGES: tuple[Stage, ...] = ("read", "decode", "queue", "forward")
SwapResult = Literal["swapped", "failed"]
SWAP_RESULTS: tuple[SwapResult, ...] = ("swapped", "failed")
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
        self._round = Gauge(
            "fedfleet_inference_model_round",
            "Round of the served version.",
            registry=self.registry,
        )
        for stage in STAGES:
            self.stage_s.labels(stage)
        for result in SWAP_RESULTS:
            self.swaps.labels(result)
        for limit in CONNECTION_LIMITS:
            self.refused_connections.labels(limit)

    def serve(self, record: VersionRecord, *, is_verified: bool) -> None:
        """Say which version is served from now on."""
        self._served.clear()
        self._served.labels(record.model, record.number, record.round, record.digest[:12]).set(1)
        self._round.set(record.round)
        self._verified.set(is_verified)

    def render(self) -> bytes:
        return generate_latest(self.registry)
