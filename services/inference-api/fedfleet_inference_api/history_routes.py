"""GET /models/{name}/history: how a model became what it is, small enough for a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from fedfleet.errors import NotFound
from fedfleet.models.card import ModelCard
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet_inference_api.answers import ErrorAnswer, iso
from fedfleet_inference_api.service import InferenceService

MOST = 5000
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
    measure: str = Field(description="what value is: accuracy, map50 or map")
    versions: list[HistoryPoint] = Field(description="oldest first")


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "INVALID_INPUT"},
    404: {"model": ErrorAnswer, "description": "NOT_FOUND"},
    503: {"model": ErrorAnswer, "description": "STORE_UNAVAILABLE"},
    "default": {"model": ErrorAnswer, "description": "any other error"},
}


def history_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["models"], responses=ERRORS)

    @router.get("/models/{name}/history")
    def history(
        name: Annotated[str, Path(max_length=200)],
        limit: Annotated[int, Query(ge=1, le=MOST, description="the newest so many")] = 1000,
    ) -> HistoryAnswer:
        """Show each version with what it scored, for a chart over the rounds."""
        return _history(service.store.registry, name, limit)

    return router


def _history(registry: Registry, name: str, limit: int) -> HistoryAnswer:
    versions = registry.versions(name)[:limit]
    if not versions:
        raise NotFound(f"there is no model {name!r}; GET /models lists them")
    aliases: dict[int, list[str]] = {}
    for alias, record in sorted(registry.aliases(name).items()):
        aliases.setdefault(record.number, []).append(alias)
    measure = _measure(versions)
    return HistoryAnswer(
        name=name,
        kind=ModelCard.from_json(versions[0].card).kind,
        measure=measure,
        versions=[
            _point(version, measure, aliases.get(version.number, []))
            for version in reversed(versions)
        ],
    )


def _measure(versions: list[VersionRecord]) -> str:
    """What the newest version that was evaluated is compared by."""
    for version in versions:
        evaluation = _evaluation(version)
        if evaluation:
            scores = _object(evaluation.get("scores"))
            return next((name for name in DETECTION_SCORES if name in scores), "accuracy")
    return "accuracy"


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
        loss=loss_sum / samples if samples and loss_sum is not None else None,
        aliases=aliases,
        retired=version.retired_at_s is not None,
    )


def _value(evaluation: Mapping[str, Any], measure: str, samples: float | None) -> float | None:
    if measure != "accuracy":
        return _number(_object(evaluation.get("scores")).get(measure))
    correct = _number(evaluation.get("correct"))
    return correct / samples if samples and correct is not None else None


def _evaluation(version: VersionRecord) -> Mapping[str, Any]:
    return _object(version.metrics.get("evaluation"))


def _object(value: Any) -> Mapping[str, Any]:
    """A JSON object, empty where it is anything else: metrics are whatever a run wrote."""
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if is_number else None
