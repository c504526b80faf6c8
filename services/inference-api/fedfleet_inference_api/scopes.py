"""Which key may ask which route: one table, which the application is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum


class Scope(str, Enum):
    """What a key is good for. The last two are kept for routes to come."""

    PREDICT = "predict"
    MODELS_READ = "models:read"
    MODELS_PROMOTE = "models:promote"
    CAMERAS_ADMIN = "cameras:admin"


OPEN: tuple[Scope, ...] = ()

# Method and route: one of these scopes is needed, or no key at all.
ROUTES: Mapping[tuple[str, str], tuple[Scope, ...]] = {
    ("POST", "/predict"): (Scope.PREDICT,),
    # What is served also stands in each prediction, and the page shows it.
    ("GET", "/served"): (Scope.PREDICT, Scope.MODELS_READ),
    ("GET", "/models"): (Scope.MODELS_READ,),
    ("GET", "/models/{name}"): (Scope.MODELS_READ,),
    ("GET", "/metrics"): (Scope.MODELS_READ,),
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("HEAD", "/openapi.json"): OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/page/style.css"): OPEN,
    ("GET", "/page/page.js"): OPEN,
    ("GET", "/page/key.js"): OPEN,
    ("GET", "/page/icon.svg"): OPEN,
}
# What balancers ask, often and without a key: no limit counts it.
UNLIMITED = {("GET", "/livez"), ("GET", "/readyz")}


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
