"""GET /livez, /readyz and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response

from fedfleet_inference_api import metrics
from fedfleet_inference_api.answers import ErrorAnswer, LiveAnswer, ReadyAnswer
from fedfleet_inference_api.service import InferenceService


def health_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> LiveAnswer:
        """Answer while the process answers at all."""
        return LiveAnswer(live=True)

    @router.get("/readyz", responses={503: {"model": ReadyAnswer, "description": "not ready"}})
    async def readyz(response: Response) -> ReadyAnswer:
        """Say whether a version is loaded and warmed up, and why not."""
        is_ready, detail = service.ready()
        response.status_code = 200 if is_ready else 503
        return ReadyAnswer(ready=is_ready, detail=detail)

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            "default": {"model": ErrorAnswer, "description": "any error"},
        },
    )
    def prometheus() -> Response:
        """Show the service's metrics in Prometheus' text format."""
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    return router
