"""Which key may ask which route: one table, which the application is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum


class Scope(str, Enum):
    """What a key is good for."""

    PREDICT = "predict"
    MODELS_READ = "models:read"
    MODELS_PROMOTE = "models:promote"
    CAMERAS_READ = "cameras:read"
    CAMERAS_ADMIN = "cameras:admin"


OPEN: tuple[Scope, ...] = ()
# Stands for the method of a route that is a WebSocket.
WEBSOCKET = "WEBSOCKET"
_WATCH = (Scope.CAMERAS_READ, Scope.CAMERAS_ADMIN)

# Method and route: one of these scopes is needed, or no key at all.
ROUTES: Mapping[tuple[str, str], tuple[Scope, ...]] = {
    ("POST", "/predict"): (Scope.PREDICT,),
    ("POST", "/predict/batch"): (Scope.PREDICT,),
    ("POST", "/v2/models/{name}/infer"): (Scope.PREDICT,),
    ("POST", "/v2/models/{name}/versions/{version}/infer"): (Scope.PREDICT,),
    ("GET", "/v2"): (Scope.PREDICT, Scope.MODELS_READ),
    ("GET", "/v2/models/{name}"): (Scope.PREDICT, Scope.MODELS_READ),
    ("GET", "/v2/models/{name}/ready"): (Scope.PREDICT, Scope.MODELS_READ),
    ("GET", "/v2/models/{name}/versions/{version}"): (Scope.PREDICT, Scope.MODELS_READ),
    ("GET", "/v2/models/{name}/versions/{version}/ready"): (Scope.PREDICT, Scope.MODELS_READ),
    ("GET", "/v2/health/live"): OPEN,
    ("GET", "/v2/health/ready"): OPEN,
    ("POST", "/served/rollback"): (Scope.MODELS_PROMOTE,),
    ("POST", "/served/follow"): (Scope.MODELS_PROMOTE,),
    # What is served also stands in each prediction and each event, and the pages show it.
    ("GET", "/served"): (Scope.PREDICT, Scope.MODELS_READ, *_WATCH),
    ("GET", "/models"): (Scope.MODELS_READ,),
    ("GET", "/models/{name}"): (Scope.MODELS_READ,),
    ("GET", "/models/{name}/history"): (Scope.MODELS_READ,),
    ("GET", "/metrics"): (Scope.MODELS_READ,),
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("HEAD", "/openapi.json"): OPEN,
    ("GET", "/cameras"): _WATCH,
    ("POST", "/cameras"): (Scope.CAMERAS_ADMIN,),
    ("GET", "/cameras/{name}"): _WATCH,
    ("DELETE", "/cameras/{name}"): (Scope.CAMERAS_ADMIN,),
    ("GET", "/cameras/{name}/snapshot.jpg"): _WATCH,
    ("GET", "/cameras/{name}/stream.mjpg"): _WATCH,
    ("GET", "/events"): _WATCH,
    (WEBSOCKET, "/events/ws"): _WATCH,
    ("GET", "/"): OPEN,
    ("GET", "/live"): OPEN,
    ("GET", "/history"): OPEN,
    ("GET", "/page/style.css"): OPEN,
    ("GET", "/page/shell.js"): OPEN,
    ("GET", "/page/page.js"): OPEN,
    ("GET", "/page/drawing.js"): OPEN,
    ("GET", "/page/live.js"): OPEN,
    ("GET", "/page/streams.js"): OPEN,
    ("GET", "/page/history.js"): OPEN,
    ("GET", "/page/chart.js"): OPEN,
    ("GET", "/page/key.js"): OPEN,
    ("GET", "/page/icon.svg"): OPEN,
}
# What balancers ask, often and without a key: no limit counts it.
UNLIMITED = {
    *(("GET", "/livez"), ("GET", "/readyz")),
    *(("GET", "/v2/health/live"), ("GET", "/v2/health/ready")),
}


def check_complete(routes: Iterable[tuple[str, str]]) -> None:
    """Refuse to make an application whose routes the table does not know, or not any more."""
    asked = set(routes)
    assert asked == set(ROUTES), f"scopes.py and the routes differ: {asked ^ set(ROUTES)}"


def route_of(method: str, path: str) -> tuple[str, str] | None:
    """The line of the table that a request is for, None where there is none."""
    if (method, path) in ROUTES:
        return (method, path)
    for (known, template), pattern in _PATTERNS:
        if known == method and pattern.fullmatch(path):
            return (known, template)
    return None


_PATTERNS = [
    (route, re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route[1]))))
    for route in ROUTES
    if "{" in route[1]
]
