"""GET /models, /models/{name} and /served: what the registry holds and what answers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from fedfleet.errors import NotFound
from fedfleet.models.card import ModelCard
from fedfleet.store.protocols import VersionRecord
from fedfleet.types import InputSpec
from fedfleet_inference_api.answers import (
    ErrorAnswer,
    InputAnswer,
    ModelDetail,
    ModelsAnswer,
    ModelSummary,
    ServedAnswer,
    VersionDetail,
    VersionSummary,
    model_ref,
)
from fedfleet_inference_api.service import InferenceService

Limit = Annotated[int, Query(ge=1, le=1000, description="versions per model, newest first")]
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
        return ModelsAnswer(
            models=[
                ModelSummary(
                    name=name,
                    aliases=_aliases(service, name),
                    served=_served_number(service, name),
                    versions=[_summary(v) for v in registry.versions(name)[:limit]],
                )
                for name in registry.models()
            ]
        )

    @router.get("/models/{name}", responses=UNKNOWN)
    def model(name: Annotated[str, Path(max_length=200)], limit: Limit = 100) -> ModelDetail:
        """Show one model: its classes, its input, each version with its metrics."""
        versions = registry.versions(name)
        if not versions:
            raise NotFound(f"there is no model {name!r}; GET /models lists them")
        card = ModelCard.from_json(versions[0].card)
        return ModelDetail(
            name=name,
            aliases=_aliases(service, name),
            served=_served_number(service, name),
            architecture=card.model.architecture,
            classes=list(card.classes),
            input=_input(card.inputs),
            versions=[_detail(v) for v in versions[:limit]],
        )

    @router.get("/served")
    async def served() -> ServedAnswer:
        """Show what /predict answers with at this moment; cheap enough to ask every second."""
        current = service.follower.following.current
        _, detail = service.ready()
        return ServedAnswer(
            model=model_ref(current) if current else None,
            classes=list(current.card.classes) if current else [],
            input=_input(current.card.inputs) if current else None,
            detail=detail,
        )

    return router


def _aliases(service: InferenceService, name: str) -> dict[str, int]:
    aliases = service.store.registry.aliases(name)
    return {alias: record.number for alias, record in sorted(aliases.items())}


def _served_number(service: InferenceService, name: str) -> int | None:
    current = service.follower.following.current
    return current.record.number if current and current.record.model == name else None


def _input(inputs: InputSpec) -> InputAnswer:
    return InputAnswer(channels=inputs.channels, height=inputs.height, width=inputs.width)


def _summary(record: VersionRecord) -> VersionSummary:
    return VersionSummary(**_fields(record))


def _detail(record: VersionRecord) -> VersionDetail:
    return VersionDetail(**_fields(record), metrics=dict(record.metrics))


def _fields(record: VersionRecord) -> dict[str, Any]:
    """What both forms of a version show. Any: they are the arguments of a class."""
    created = datetime.fromtimestamp(record.created_at_s, timezone.utc)
    return {
        "version": record.number,
        "round": record.round,
        "run_id": record.run_id,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "parent": record.parent,
        "created_at": created.isoformat(timespec="milliseconds"),
    }
