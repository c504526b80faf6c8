"""Every metric of the worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600)


class WorkerMetrics:
    """Declares the metrics in one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connected = Gauge(
            "fedfleet_worker_connected", "1 while the stream is open.", registry=self.registry
        )
        self.paused = Gauge(
            "fedfleet_worker_paused",
            "1 while the worker rests because of its limits.",
            registry=self.registry,
        )
        self.assignments = Counter(
            "fedfleet_worker_assignments_total",
            "Assignments that ended, by result.",
            ["result"],
            registry=self.registry,
        )
        for result in ("delivered", "evaluated", "failed", "abandoned"):
            self.assignments.labels(result)
        self.train_duration = Histogram(
            "fedfleet_worker_train_duration_seconds",
            "Local training of one assignment.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.bytes = Counter(
            "fedfleet_worker_transfer_bytes_total",
            "Payload bytes moved, by direction.",
            ["direction"],
            registry=self.registry,
        )
        for direction in ("up", "down"):
            self.bytes.labels(direction)

    @property
    def is_connected(self) -> bool:
        """Whether the stream is open."""
        return self.registry.get_sample_value("fedfleet_worker_connected") == 1.0
