"""The KServe V2 protocol (also: Open Inference Protocol) below /v2, with its binary tensor data."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from fedfleet.wire.release import SOFTWARE_VERSION
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.v2_answers import (
    V2Error,
    V2Inference,
    V2Live,
    V2Model,
    V2ModelReady,
    V2Ready,
    V2Server,
)
from fedfleet_inference_api.v2_document import INFER_ANSWER, INFER_REQUEST
from fedfleet_inference_api.v2_infer import infer, is_ready, model, number_of

Name = Annotated[str, Path(max_length=200)]
Version = Annotated[str, Path(max_length=40)]
# As other servers of the protocol name it.
BINARY_DATA = "binary_tensor_data"


def _error(description: str) -> dict[str, Any]:
    return {"model": V2Error, "description": description}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("INVALID_INPUT"),
    404: _error("NOT_FOUND: no such model or version"),
    503: _error("NO_MODEL, UNAVAILABLE, STORE_UNAVAILABLE"),
    "default": _error("any other error"),
}
INFER_ERRORS: dict[int | str, dict[str, Any]] = {
    409: _error("VERSION_INVALID, SIGNATURE_INVALID: the version cannot be served"),
    410: _error("VERSION_RETIRED"),
    413: _error("BODY_TOO_LARGE"),
    415: _error("IMAGE_INVALID: a content type or an encoding that is not read here"),
    504: _error("TIMED_OUT"),
}
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": V2Ready, "description": "not ready"},
}
MODEL_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": V2ModelReady, "description": "not in memory, or STORE_UNAVAILABLE"},
}


def v2_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["KServe V2"])

    @router.get("/v2", responses={"default": ERRORS["default"]})
    async def server() -> V2Server:
        """Name this server and what it serves of the protocol's extensions."""
        return V2Server(name="fedfleet", version=SOFTWARE_VERSION, extensions=[BINARY_DATA])

    @router.get("/v2/health/live")
    async def live() -> V2Live:
        """Answer while the process answers at all."""
        return V2Live(live=True)

    @router.get("/v2/health/ready", responses=NOT_READY)
    async def ready(response: Response) -> V2Ready:
        """Say whether a version is loaded and warmed up."""
        is_up, _ = service.ready()
        response.status_code = 200 if is_up else 503
        return V2Ready(ready=is_up)

    @router.get("/v2/models/{name}", responses=ERRORS)
    async def metadata(name: Name) -> V2Model:
        """Describe what a model takes and gives."""
        return await model(service, name, None)

    @router.get("/v2/models/{name}/versions/{version}", responses=ERRORS)
    async def version_metadata(name: Name, version: Version) -> V2Model:
        """Describe what a version takes and gives."""
        return await model(service, name, number_of(version))

    @router.get("/v2/models/{name}/ready", responses={**ERRORS, **MODEL_NOT_READY})
    async def model_ready(name: Name, response: Response) -> V2ModelReady:
        """Say whether a model is in memory."""
        is_here = await is_ready(service, name, None)
        response.status_code = 200 if is_here else 503
        return V2ModelReady(name=name, ready=is_here)

    @router.get(
        "/v2/models/{name}/versions/{version}/ready", responses={**ERRORS, **MODEL_NOT_READY}
    )
    async def version_ready(name: Name, version: Version, response: Response) -> V2ModelReady:
        """Say whether a version is in memory; others are loaded when they are asked for."""
        is_here = await is_ready(service, name, version)
        response.status_code = 200 if is_here else 503
        return V2ModelReady(name=name, ready=is_here)

    _add_inference(router, service)
    return router


def _add_inference(router: APIRouter, service: InferenceService) -> None:
    described: dict[str, Any] = {
        "openapi_extra": INFER_REQUEST,
        "response_model": V2Inference,
        "responses": {200: INFER_ANSWER, **ERRORS, **INFER_ERRORS},
    }

    @router.post("/v2/models/{name}/infer", **described)
    async def newest(name: Name, request: Request) -> Response:
        """Answer images with the version that is served of a model."""
        return await infer(service, request, name, None)

    @router.post("/v2/models/{name}/versions/{version}/infer", **described)
    async def pinned(name: Name, version: Version, request: Request) -> Response:
        """Answer images with one version."""
        return await infer(service, request, name, version)
