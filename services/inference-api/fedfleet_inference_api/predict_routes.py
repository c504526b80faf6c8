"""POST /predict and /predict/batch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedfleet_inference_api.answers import (
    BatchAnswer,
    ErrorAnswer,
    PredictAnswer,
    json_response,
)
from fedfleet_inference_api.caller import TIMEOUT_HEADER
from fedfleet_inference_api.predict import Wish, predict, predict_batch
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.uploads import openapi_batch, openapi_body

LARGEST_VERSION = 10**18 - 1


def _error(description: str) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": description}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("INVALID_INPUT: a parameter, a header, the form or the JSON cannot be used"),
    404: _error("NOT_FOUND: there is no such version or alias"),
    409: _error("VERSION_INVALID, SIGNATURE_INVALID: the version asked for cannot be served"),
    410: _error("VERSION_RETIRED"),
    413: _error("BODY_TOO_LARGE or IMAGE_TOO_LARGE (more than 24 megapixels)"),
    415: _error("IMAGE_INVALID: not a JPEG, PNG, WEBP, BMP or GIF, or a damaged one"),
    503: _error("NO_MODEL, or UNAVAILABLE: too many predictions wait; try again in a second"),
    504: _error("TIMED_OUT"),
    "default": _error("any other error"),
}
URL_ERRORS: dict[int | str, dict[str, Any]] = {
    422: _error("IMAGE_URL_FAILED: the image was not fetched; why is not told"),
}
TIMEOUT: dict[str, Any] = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "description": "seconds that the caller waits, if less than the service allows",
}
REQUEST_ID: dict[str, Any] = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    "description": "comes back with the answer; the same id is always of the same canary share",
}
HEADERS = {"parameters": [TIMEOUT, REQUEST_ID]}


class PredictQuery(BaseModel):
    """The query's parameters; an unknown one is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")

    k: int | None = Field(
        default=None,
        ge=1,
        description="classes to name, up to all; five where left out; of a classifier",
    )
    version: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST_VERSION,
        description="number of the version to answer with; loaded where it is not in memory",
    )
    alias: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9._-]{1,64}$",
        description="alias of the version to answer with",
    )
    score: float | None = Field(
        default=None, ge=0, le=1, description="least score of a box, 0.4 where left out; detectors"
    )

    def wish(self) -> Wish:
        return Wish(k=self.k, version=self.version, alias=self.alias, score=self.score)


class _QueryRoute(APIRoute):
    """A route whose endpoint takes the request and its query, documented as any other.

    The framework's own way to a model of the query takes as long as all the rest of a prediction
    on the event loop but HTTP itself.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, _query(request))
            return response

        return handle


def _query(request: Request) -> PredictQuery:
    try:
        return PredictQuery.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestValidationError(
            [{**item, "loc": ("query", *item["loc"])} for item in error.errors()]
        ) from error


def predict_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["predict"], route_class=_QueryRoute)
    has_urls = service.images is not None

    # They answer with JSON that is written once; the framework would check and copy it first.

    @router.post(
        "/predict",
        openapi_extra={**HEADERS, **openapi_body(has_urls=has_urls)},
        response_model=PredictAnswer,
        responses={**ERRORS, **(URL_ERRORS if has_urls else {})},
    )
    async def one(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Name what an image shows, most probable class first, or where what is on it."""
        return json_response(await predict(service, request, query.wish()))

    @router.post(
        "/predict/batch",
        openapi_extra={**HEADERS, **openapi_batch(service.config.batch_images)},
        response_model=BatchAnswer,
        responses=ERRORS,
    )
    async def batch(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Answer several images with one version; an image that is none gets its own error."""
        return json_response(await predict_batch(service, request, query.wish()))

    return router
