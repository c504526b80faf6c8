from __future__ import annotations

import pytest

from fedfleet.store.open import open_store
from fedfleet_coordinator.access_desk import KEY_SCOPES
from fedfleet_inference_api import scopes
from fedfleet_inference_api.app import create_app
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.page_routes import FILES, PAGES
from fedfleet_inference_api.scopes import (
    OPEN,
    ROUTES,
    WEBSOCKET,
    Scope,
    check_complete,
    route_of,
)
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.signature_check import SignatureCheck

PAGE = {("GET", path) for path in (*PAGES, *(f"/page/{name}" for name in FILES))}
DOCUMENT = {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}


def test_table_and_routes_of_the_application_are_the_same(tmp_path):
    with open_store(f"sqlite:{tmp_path}") as store:
        service = InferenceService(InferenceConfig(), store, SignatureCheck("none", ""))
        document = create_app(service).openapi()
        service.predictor.close()

    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    assert described == set(ROUTES) - PAGE - DOCUMENT - {(WEBSOCKET, "/events/ws")}


def test_only_health_and_static_files_need_no_key():
    paths = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
    health = {("GET", path) for path in paths}

    assert {route for route, wanted in ROUTES.items() if wanted == OPEN} == (
        health | PAGE | DOCUMENT
    )
    assert health == scopes.UNLIMITED


def test_coordinator_makes_keys_for_the_same_scopes():
    assert tuple(KEY_SCOPES) == tuple(scope.value for scope in Scope)


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_application_is_not_made_with_a_route_that_the_table_does_not_know(change):
    routes = list(ROUTES)
    routes = [*routes, ("POST", "/promote")] if change == "more" else routes[1:]

    with pytest.raises(AssertionError, match="differ"):
        check_complete(routes)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/predict", ("POST", "/predict")),
        ("GET", "/predict", None),
        ("GET", "/models/digits", ("GET", "/models/{name}")),
        ("GET", "/cameras/yard", ("GET", "/cameras/{name}")),
        ("GET", "/cameras/yard/stream.mjpg", ("GET", "/cameras/{name}/stream.mjpg")),
        ("GET", "/cameras/yard/stream_mjpg", None),
        ("WEBSOCKET", "/events/ws", (WEBSOCKET, "/events/ws")),
        ("GET", "/models/a b\n", ("GET", "/models/{name}")),
        ("GET", "/models/", None),
        ("GET", "/models/a/b", None),
        ("GET", "/livez/", None),
        ("GET", "/livez\n", None),
        ("get", "/livez", None),
        ("GET", "/page/../predict", None),
    ],
)
def test_route_of_finds_the_line_of_the_table(method, path, expected):
    assert route_of(method, path) == expected
