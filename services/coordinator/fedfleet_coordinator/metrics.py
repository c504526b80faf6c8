"""Every metric of the coordinator. Labels are bounded: no worker ids, no run ids."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_ROUND_BUCKETS = (0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class CoordinatorMetrics:
    """Declares the metrics in one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.workers = Gauge(
            "fedfleet_coordinator_workers_connected",
            "Workers with an open stream.",
            registry=self.registry,
        )
        self.runs = Counter(
            "fedfleet_coordinator_runs_total",
            "Runs that ended, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("completed", "failed", "stopped"):
            self.runs.labels(outcome)
        self.rounds = Counter(
            "fedfleet_coordinator_rounds_total", "Rounds committed.", registry=self.registry
        )
        self.round_duration = Histogram(
            "fedfleet_coordinator_round_duration_seconds",
            "From the cohort's selection to the commit.",
            buckets=_ROUND_BUCKETS,
            registry=self.registry,
        )
        self.last_round = Gauge(
            "fedfleet_coordinator_last_round_timestamp_seconds",
            "When the last round was committed.",
            registry=self.registry,
        )
        self.updates = Counter(
            "fedfleet_coordinator_updates_total",
            "Updates offered, by result.",
            ["result"],
            registry=self.registry,
        )
        for result in ("accepted", "duplicate", "refused", "failed"):
            self.updates.labels(result)
        self.bytes = Counter(
            "fedfleet_coordinator_transfer_bytes_total",
            "Payload bytes moved, by direction as seen from the worker and by codec chain.",
            ["direction", "codec"],
            registry=self.registry,
        )
        for direction in ("up", "down"):
            self.bytes.labels(direction, "identity")
        self.refusals = Counter(
            "fedfleet_coordinator_update_refusals_total",
            "Updates refused, by the code that the worker was told.",
            ["code"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "fedfleet_coordinator_upload_in_flight_bytes",
            "Room held by chunks that are being received; at its bound, workers are made to wait.",
            registry=self.registry,
        )
        self.accuracy = Gauge(
            "fedfleet_coordinator_eval_accuracy_ratio",
            "Accuracy of the newest version on the coordinator's test split; a detector's mAP@0.5.",
            registry=self.registry,
        )
        self.loss = Gauge(
            "fedfleet_coordinator_eval_loss_nats",
            "Loss of the newest version on the coordinator's test split.",
            registry=self.registry,
        )
