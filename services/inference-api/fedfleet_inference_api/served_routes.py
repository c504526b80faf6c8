"""GET /served, and the way back: POST /served/rollback and /served/follow."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from fedfleet.errors import NotAllowed
from fedfleet_inference_api.answers import (
    CandidateAnswer,
    ErrorAnswer,
    InputAnswer,
    RefusedVersion,
    ServedAnswer,
    iso,
    model_ref,
)
from fedfleet_inference_api.following import Refused
from fedfleet_inference_api.servable import Servable
from fedfleet_inference_api.service import InferenceService

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorAnswer, "description": "any error"},
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorAnswer, "description": "CONFLICT: there is no version to go back to"},
}
FOREIGN: dict[int | str, dict[str, Any]] = {
    403: {"model": ErrorAnswer, "description": "NOT_ALLOWED: a page of another host asked"},
}


def served_router(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["models"], responses=ERRORS)
    follower = service.follower

    @router.get("/served")
    async def served() -> ServedAnswer:
        """Show what /predict answers with at this moment; cheap enough to ask every second."""
        return _served(service)

    # On threads of the framework: the follower's lock is another thread's, too.

    @router.post("/served/rollback", responses={**CONFLICT, **FOREIGN})
    def rollback(request: Request) -> ServedAnswer:
        """Serve the version before at once, and keep to it until told to follow again."""
        _check_origin(request)
        follower.hold_previous()
        return _served(service)

    @router.post("/served/follow", responses=FOREIGN)
    def follow(request: Request) -> ServedAnswer:
        """Follow the alias again, after a rollback by hand."""
        _check_origin(request)
        follower.resume()
        return _served(service)

    return router


def _check_origin(request: Request) -> None:
    """Let no page of another host change what is served with its reader's browser.

    A browser asks nobody before it sends an empty POST, and on loopback there are no keys.

    Raises:
        NotAllowed: the request comes from such a page.
    """
    origin = request.headers.get("origin")  # only browsers send it
    if origin is not None:
        _, _, host = origin.lower().partition("://")
        if host != request.headers.get("host", "").lower():
            raise NotAllowed("a page of another host may not change what is served")


def _served(service: InferenceService) -> ServedAnswer:
    following = service.follower.following
    current, previous = following.current, following.previous
    _, detail = service.ready()
    return ServedAnswer(
        model=model_ref(current) if current else None,
        previous=model_ref(previous) if previous else None,
        candidate=_candidate(service, following.candidate),
        is_held=following.is_held,
        refused=[_refused(one) for one in following.refused],
        classes=list(current.card.classes) if current else [],
        input=InputAnswer.of(current.card.inputs) if current else None,
        detail=detail,
    )


def _candidate(service: InferenceService, candidate: Servable | None) -> CandidateAnswer | None:
    if candidate is None:
        return None
    standing = service.shadow.standing(candidate)
    return CandidateAnswer(
        model=model_ref(candidate),
        canary_share=service.config.canary_share,
        shadow_share=service.config.shadow_share,
        mirrored=standing.mirrored,
        agreement=standing.agreement if standing.mirrored else None,
    )


def _refused(refused: Refused) -> RefusedVersion:
    return RefusedVersion(
        model=refused.model,
        version=refused.number,
        code=refused.code,
        message=refused.reason,
        at=iso(refused.at_s),
        was_served=refused.was_served,
    )
