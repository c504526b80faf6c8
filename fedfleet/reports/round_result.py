"""One round as reports see it, whether it was simulated or deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfleet.types import Evaluation, Json


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """One round, simulated or deployed.

    Args:
        version: number in the registry; None in a simulation.
        duration_s: from the choice of the cohort to the commit; None in a simulation.
        weight: training samples behind the updates.
        metrics: sample-weighted means of the workers' training metrics.
        bytes_up: payload bytes of the updates that count.
        bytes_down: payload bytes that workers downloaded since the round before.
        traffic: by worker id, what was moved since the round before, with what was sent again;
            empty in a simulation.
        worker_evaluations: by worker id.
        workers: whose updates count; empty where it is not known.
        at_s: when the round closed, in seconds since the epoch; None where it is not known.
        virtual_s: when the round closed, in seconds of the simulated fleet; None without profiles.
    """

    round: int
    version: int | None
    duration_s: float | None
    updates: int
    weight: float
    metrics: Mapping[str, float]
    bytes_up: int
    bytes_down: int
    evaluation: Evaluation | None
    traffic: Mapping[str, Json] = field(default_factory=dict)
    worker_evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    at_s: float | None = None
    virtual_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "version": self.version,
            "duration_s": self.duration_s,
            "updates": self.updates,
            "weight": self.weight,
            "metrics": dict(self.metrics),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "traffic": dict(sorted(self.traffic.items())),
            "evaluation": self.evaluation.to_json() if self.evaluation else None,
            "worker_evaluations": {
                name: evaluation.to_json()
                for name, evaluation in sorted(self.worker_evaluations.items())
            },
            "workers": list(self.workers),
            "at_s": self.at_s,
            "virtual_s": self.virtual_s,
        }

    @classmethod
    def from_json(cls, value: Json) -> RoundResult:
        """Read what ``to_json`` gave; KeyError, TypeError or ValueError where it is not that."""
        evaluation = value["evaluation"]
        return cls(
            round=int(value["round"]),
            version=value["version"],
            duration_s=_seconds(value["duration_s"]),
            updates=int(value["updates"]),
            weight=float(value["weight"]),
            # A metric that was not finite is null in JSON.
            metrics={name: float(v) for name, v in value["metrics"].items() if v is not None},
            bytes_up=int(value["bytes_up"]),
            bytes_down=int(value["bytes_down"]),
            evaluation=None if evaluation is None else _evaluation(evaluation),
            traffic=dict(value["traffic"]),
            worker_evaluations={
                str(name): _evaluation(one) for name, one in value["worker_evaluations"].items()
            },
            workers=tuple(map(str, value["workers"])),
            at_s=_seconds(value["at_s"]),
            virtual_s=_seconds(value["virtual_s"]),
        )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _evaluation(value: Json) -> Evaluation:
    """An evaluation whose lists are of one length and whose counts are counts."""
    found = Evaluation.from_json(value)
    rows = (found.class_samples, found.class_correct, found.class_predicted, *found.confusion)
    classes = len(found.class_samples)
    if any(len(row) != classes for row in rows) or len(found.confusion) not in (0, classes):
        raise ValueError("the lists of an evaluation are of different lengths")
    counts = (found.samples, found.correct, found.top5, *(count for row in rows for count in row))
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("a count of an evaluation is not a count")
    if not all(0 <= score <= 1 for score in found.scores.values()):
        raise ValueError("a score of an evaluation is out of [0, 1]")
    float(found.loss_sum)
    return found
