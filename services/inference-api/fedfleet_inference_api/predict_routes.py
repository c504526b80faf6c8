"""POST /predict."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from fedfleet_inference_api.answers import ErrorAnswer, PredictAnswer
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.uploads import OPENAPI_BODY


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": description}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("INVALID_INPUT: a parameter, the form or the JSON cannot be used"),
    413: _error("BODY_TOO_LARGE or IMAGE_TOO_LARGE (more than 24 megapixels)"),
    415: _error("IMAGE_INVALID: not a JPEG, PNG, WEBP, BMP or GIF, or a damaged one"),
    503: _error("NO_MODEL, or UNAVAILABLE: too many predictions wait; try again in a second"),
    504: _error("TIMED_OUT"),
    "default": _error("any other error"),
}


class PredictQuery(BaseModel):
    """The query's parameters; an unknown one is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")

    k: int | None = Field(
        default=None, ge=1, description="classes to name, up to all; five where left out"
    )


def predict_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["predict"])

    @router.post("/predict", openapi_extra=OPENAPI_BODY, responses=ERRORS)
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> PredictAnswer:
        """Name what an image shows, most probable class first."""
        return await service.predict(request, query.k)

    return router
