"""GET /models/{name}/history: how a model became what it is, small enough for a chart."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fedfleet.models.card import ModelCard
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet.store.version_pages import each_version
from fedfleet_inference_api.answers import OLDER, ErrorAnswer, iso
from fedfleet_inference_api.model_routes import Before, newest_version, older_than
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.worker_evaluations import WorkerEvaluations

USUAL, MOST = 1000, 5000
# Of a detector, in the order in which one is taken: what people compare detectors by.
DETECTION_SCORES = ("map50", "map")


class HistoryPoint(BaseModel):
    """One version."""

    version: int = Field(ge=1)
    round: int = Field(ge=0)
    run_id: str
    parent: int | None
    created_at: str = Field(description="ISO 8601, UTC")
    size_bytes: int = Field(ge=0)
    updates: int | None = Field(description="workers' updates that it was made of")
    value: float | None = Field(description="of the measure, null where it was not evaluated")
    loss: float | None
    aliases: list[str]
    retired: bool = Field(description="its bytes are kept no longer")


class HistoryAnswer(BaseModel):
    name: str
    kind: str = Field(description="classification or detection, of the newest version")
    measure: str = Field(
        description="what value is: accuracy; of a detector map50, map, or recall where no "
        "precision was measured"
    )
    measured_by: Literal["coordinator", "workers"] = Field(
        description="on whose data: workers where the coordinator evaluated none of these versions"
    )
    versions: list[HistoryPoint] = Field(description="oldest first")
    older: int = Field(ge=0, description=OLDER)


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "INVALID_INPUT"},
    404: {"model": ErrorAnswer, "description": "NOT_FOUND"},
    503: {"model": ErrorAnswer, "description": "STORE_UNAVAILABLE"},
    "default": {"model": ErrorAnswer, "description": "any other error"},
}


def history_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["models"], responses=ERRORS)
    by_workers = WorkerEvaluations(service.store.journal)

    @router.get("/models/{name}/history")
    def history(
        name: Annotated[str, Path(max_length=200)],
        limit: Annotated[int, Query(ge=1, le=MOST, description="the newest so many")] = USUAL,
        before: Before = None,
    ) -> HistoryAnswer:
        """Show each version with what it scored, for a chart over the rounds."""
        return _history(service.store.registry, by_workers, name, limit, before)

    return router


def _history(
    registry: Registry,
    by_workers: WorkerEvaluations,
    name: str,
    limit: int,
    before: int | None,
) -> HistoryAnswer:
    newest = newest_version(registry, name)
    kind = ModelCard.from_json(newest.card).kind
    versions = registry.versions(name, before, limit)
    aliases: dict[int, list[str]] = {}
    for alias, record in sorted(registry.aliases(name).items()):
        aliases.setdefault(record.number, []).append(alias)
    # The same in every part of a history.
    told = versions if before is None else list(each_version(registry, name, limit=USUAL))
    measure = _measure(told, "recall" if kind == "detection" else "accuracy")
    by_coordinator = any(_evaluation(version) for version in told)
    if not by_coordinator:
        versions = _with_workers(versions, by_workers)
    by_worker = not by_coordinator and any(_evaluation(version) for version in versions)
    return HistoryAnswer(
        name=name,
        kind=kind,
        measure=measure,
        measured_by="workers" if by_worker else "coordinator",
        versions=[
            _point(version, measure, aliases.get(version.number, []))
            for version in reversed(versions)
        ],
        older=older_than(versions),
    )


def _with_workers(
    versions: Iterable[VersionRecord], by_workers: WorkerEvaluations
) -> list[VersionRecord]:
    """The versions with what their workers measured together as their evaluation."""
    found: dict[str, Mapping[int, Mapping[str, Any]]] = {}
    told = []
    for version in versions:
        if version.run_id and version.run_id not in found:
            found[version.run_id] = by_workers.by_round(version.run_id)
        evaluation = found.get(version.run_id, {}).get(version.round)
        told.append(replace(version, metrics={**version.metrics, "evaluation": evaluation}))
    return told


def _measure(versions: Iterable[VersionRecord], hits: str) -> str:
    """What the newest version that was evaluated is compared by.

    Args:
        versions: newest first.
        hits: what the share of right answers is called.
    """
    for version in versions:
        evaluation = _evaluation(version)
        if evaluation:
            scores = _object(evaluation.get("scores"))
            return next((name for name in DETECTION_SCORES if name in scores), hits)
    return hits


def _point(version: VersionRecord, measure: str, aliases: list[str]) -> HistoryPoint:
    evaluation = _evaluation(version)
    samples = _number(evaluation.get("samples"))
    loss_sum = _number(evaluation.get("loss_sum"))
    updates = _number(version.metrics.get("updates"))
    return HistoryPoint(
        version=version.number,
        round=version.round,
        run_id=version.run_id,
        parent=version.parent,
        created_at=iso(version.created_at_s),
        size_bytes=version.size_bytes,
        updates=None if updates is None else int(updates),
        value=_value(evaluation, measure, samples),
        loss=_share(loss_sum, samples),
        aliases=aliases,
        retired=version.retired_at_s is not None,
    )


def _value(evaluation: Mapping[str, Any], measure: str, samples: float | None) -> float | None:
    if measure in DETECTION_SCORES:
        return _number(_object(evaluation.get("scores")).get(measure))
    return _share(_number(evaluation.get("correct")), samples)


def _share(part: float | None, whole: float | None) -> float | None:
    return _number(part / whole) if whole and part is not None else None


def _evaluation(version: VersionRecord) -> Mapping[str, Any]:
    return _object(version.metrics.get("evaluation"))


def _object(value: Any) -> Mapping[str, Any]:
    """A JSON object, empty where it is anything else: metrics are whatever a run wrote."""
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    """A number that JSON can say; a whole one may be larger than any float."""
    if not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)
