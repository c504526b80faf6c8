"""GET /models and /models/{name}: what the registry holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Optional

from fastapi import APIRouter, Path, Query

from fedfleet.errors import NotFound
from fedfleet.models.card import ModelCard
from fedfleet.store.protocols import Registry, VersionRecord
from fedfleet.types import Evaluation
from fedfleet_inference_api.answers import (
    ClassAccuracy,
    ErrorAnswer,
    InputAnswer,
    ModelDetail,
    ModelsAnswer,
    ModelSummary,
    VersionDetail,
    VersionSummary,
    iso,
)
from fedfleet_inference_api.service import InferenceService

Limit = Annotated[int, Query(ge=1, le=1000, description="versions per model, newest first")]
Before = Annotated[
    Optional[int],  # noqa: UP045 - evaluated, on Python 3.10 too
    Query(ge=1, description="only versions below this number"),
]
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "INVALID_INPUT"},
    503: {"model": ErrorAnswer, "description": "STORE_UNAVAILABLE"},
    "default": {"model": ErrorAnswer, "description": "any other error"},
}
UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "NOT_FOUND"},
}


def model_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["models"], responses=ERRORS)
    registry = service.store.registry

    # Plain functions: the framework runs them on threads, for the store's calls block.

    @router.get("/models")
    def models(limit: Limit = 100) -> ModelsAnswer:
        """List every model with its versions and aliases."""
        return ModelsAnswer(models=[_listed(service, name, limit) for name in registry.models()])

    @router.get("/models/{name}", responses=UNKNOWN)
    def model(
        name: Annotated[str, Path(max_length=200)], limit: Limit = 100, before: Before = None
    ) -> ModelDetail:
        """Show one model: its classes, its input, each version with its metrics."""
        card = ModelCard.from_json(newest_version(registry, name).card)
        versions = registry.versions(name, before, limit)
        return ModelDetail(
            name=name,
            aliases=_aliases(service, name),
            served=_served_number(service, name),
            architecture=card.model.architecture,
            classes=list(card.classes),
            input=InputAnswer.of(card.inputs),
            versions=[_detail(v) for v in versions],
            older=older_than(versions),
        )

    return router


def newest_version(registry: Registry, name: str) -> VersionRecord:
    """Raises NotFound: there is no such model."""
    versions = registry.versions(name, limit=1)
    if not versions:
        raise NotFound(f"there is no model {name!r}; GET /models lists them")
    return versions[0]


def older_than(versions: Sequence[VersionRecord]) -> int:
    """How many versions are older than these, newest first: numbers have no gaps."""
    return versions[-1].number - 1 if versions else 0


def _listed(service: InferenceService, name: str, limit: int) -> ModelSummary:
    versions = service.store.registry.versions(name, limit=limit)
    return ModelSummary(
        name=name,
        aliases=_aliases(service, name),
        served=_served_number(service, name),
        versions=[_summary(version) for version in versions],
        older=older_than(versions),
    )


def _aliases(service: InferenceService, name: str) -> dict[str, int]:
    aliases = service.store.registry.aliases(name)
    return {alias: record.number for alias, record in sorted(aliases.items())}


def _served_number(service: InferenceService, name: str) -> int | None:
    current = service.follower.following.current
    return current.record.number if current and current.record.model == name else None


def _summary(record: VersionRecord) -> VersionSummary:
    return VersionSummary(**_fields(record))


def _detail(record: VersionRecord) -> VersionDetail:
    return VersionDetail(
        **_fields(record),
        classes=_class_accuracies(record),
        lineage=_finite(record.lineage),
        metrics=_finite(record.metrics),
    )


def _evaluation(record: VersionRecord) -> Evaluation | None:
    """How the version did; None where it was not evaluated, or something else stands there."""
    value = record.metrics.get("evaluation")
    try:
        return Evaluation.from_json(value) if value else None
    except (KeyError, TypeError, ValueError):
        return None


def _class_accuracies(record: VersionRecord) -> list[ClassAccuracy] | None:
    evaluation, labels = _evaluation(record), record.card.get("classes")
    if evaluation is None or not isinstance(labels, list):
        return None
    if not len(labels) == len(evaluation.class_samples) == len(evaluation.class_correct):
        return None
    counts = zip(labels, evaluation.class_samples, evaluation.class_correct, strict=True)
    return [
        ClassAccuracy(
            label=str(label), samples=samples, accuracy=correct / samples if samples else None
        )
        for label, samples, correct in counts
    ]


def _finite(value: Any) -> Any:
    """A JSON value with null for what is not finite, which JSON cannot say. Any: it is JSON."""
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fields(record: VersionRecord) -> dict[str, Any]:
    """What both forms of a version show. Any: they are the arguments of a class."""
    evaluation, retired_at_s = _evaluation(record), record.retired_at_s
    return {
        "version": record.number,
        "round": record.round,
        "run_id": record.run_id,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "parent": record.parent,
        "created_at": iso(record.created_at_s),
        "retired_at": None if retired_at_s is None else iso(retired_at_s),
        "accuracy": evaluation.accuracy if evaluation and evaluation.samples else None,
    }
