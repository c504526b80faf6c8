"""What workers report of a round: as arrays, as the metrics of a version, and to who watches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fedfleet.errors import UpdateInvalid
from fedfleet.rounds.metrics import mean_metrics
from fedfleet.rounds.static_norm import Measured, check_measured
from fedfleet.store.protocols import UpdateRecord, VersionRecord
from fedfleet.types import Array, Evaluation, Schema
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.updates import header_from_json, header_of
from fedfleet_coordinator.metrics import CoordinatorMetrics
from fedfleet_coordinator.traffic import Moved

logger = logging.getLogger(__name__)

# Begins the name of a level's statistics in the blob of a measurement.
_LEVEL = "level."


def read_measured(
    report: pb.StatisticsReport, schema: Schema, most_samples: float, levels: Mapping[str, Schema]
) -> Measured:
    """What a worker measured of a round's outcome.

    Args:
        levels: those that were asked for.

    Raises:
        UpdateInvalid: a level is there twice; and what ``check_measured`` raises.
    """
    named = [one.level for one in report.levels]
    if len(set(named)) < len(named):
        raise UpdateInvalid("statistics of a level that are there twice")
    measured = Measured(
        report.samples,
        np.array(report.statistics, np.float32),
        np.array(report.counters, np.int64),
        {one.level: np.array(one.statistics, np.float32) for one in report.levels},
    )
    check_measured(measured, schema, most_samples, levels)
    return measured


def measured_to_arrays(measured: Measured) -> dict[str, Array]:
    """What a worker measured, as the arrays of a blob; the number of examples stands elsewhere."""
    levels = {_LEVEL + level: vector for level, vector in measured.levels.items()}
    return {"statistics": measured.statistics, "counters": measured.counters, **levels}


def measured_from_arrays(samples: int, arrays: Mapping[str, Array]) -> Measured:
    """Read what ``measured_to_arrays`` wrote."""
    levels = {
        name.removeprefix(_LEVEL): vector
        for name, vector in arrays.items()
        if name.startswith(_LEVEL)
    }
    return Measured(samples, arrays["statistics"], arrays["counters"], levels)


def round_metrics(
    records: list[UpdateRecord],
    evaluation: Evaluation | None,
    duration_s: float,
    moved: Mapping[str, Moved],
) -> dict[str, Any]:
    """What a version's record says of its round: weighted means of the workers' metrics."""
    headers = [header_of(header_from_json(record.header)) for record in records]
    return {
        "updates": len(records),
        "workers": [record.worker_id for record in records],
        "weight": sum(header.weight for header in headers),
        "bytes_up": sum(record.size_bytes for record in records),
        "traffic": {worker_id: asdict(one) for worker_id, one in moved.items()},
        "duration_s": duration_s,
        "train": mean_metrics(headers),
        "evaluation": evaluation.to_json() if evaluation else None,
    }


def observe_round(
    metrics: CoordinatorMetrics,
    version: VersionRecord,
    duration_s: float,
    evaluation: Evaluation | None,
) -> None:
    """Tell metrics and log what a committed round came to."""
    metrics.rounds.inc()
    metrics.round_duration.observe(duration_s)
    metrics.last_round.set_to_current_time()
    if evaluation is not None:
        metrics.accuracy.set(evaluation.quality)
        metrics.loss.set(evaluation.loss)
    logger.info(
        "round_committed",
        extra={
            "run_id": version.run_id,
            "round": version.round,
            "duration_s": float(f"{duration_s:.4g}"),
            "accuracy": evaluation.accuracy if evaluation else None,
            **(dict(evaluation.scores) if evaluation else {}),
        },
    )
