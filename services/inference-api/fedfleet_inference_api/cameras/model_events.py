"""What happens to the served model, told like what cameras see, so that pages follow it."""

from __future__ import annotations

import time
from typing import Any

from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.following import Following, Refused, is_of
from fedfleet_inference_api.servable import Servable


def model_events(before: Following, after: Following) -> list[CameraEvent]:
    """The events of one change: ``version_served``, ``rolled_back``, ``version_refused``,
    ``candidate_ready``, ``candidate_left``.
    """
    found = []
    refused = _new_refused(before, after)
    is_back = after.is_held and not before.is_held
    if refused is not None:
        kind = "rolled_back" if refused.was_served else "version_refused"
        found.append(_event(kind, refused_json(refused), after.current))
    elif is_back and before.current is not None:
        fields = {"name": before.current.record.model, "version": before.current.record.number}
        found.append(_event("rolled_back", fields, after.current))
    if after.current is not None and not is_of(before.current, after.current.record):
        found.append(_event("version_served", {}, after.current))
    if after.candidate is not before.candidate:
        kind = "candidate_ready" if after.candidate is not None else "candidate_left"
        found.append(_event(kind, {}, after.candidate or before.candidate))
    return found


def _new_refused(before: Following, after: Following) -> Refused | None:
    newest = after.refused[0] if after.refused else None
    return newest if newest is not None and newest not in before.refused else None


def refused_json(refused: Refused) -> dict[str, Any]:
    """JSON as Any, of the fields."""
    return {
        "name": refused.model,
        "version": refused.number,
        "code": refused.code,
        "reason": refused.reason,
    }


def _event(kind: str, fields: dict[str, Any], servable: Servable | None) -> CameraEvent:
    model = model_json(servable) if servable is not None else {}
    return CameraEvent(camera="", at_s=time.time(), kind=kind, fields=fields, model=model)


def model_json(servable: Servable) -> dict[str, Any]:
    """Which version it is, as views and events name it. JSON as Any."""
    record = servable.record
    return {
        "name": record.model,
        "version": record.number,
        "round": record.round,
        "digest": record.digest,
    }
