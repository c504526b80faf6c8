"""The REST surface, asked for what its own OpenAPI document says and for what it does not say.

The service is a real one, over HTTP, with keys and without; what it answers has to be of a status,
a content type and a form that the document names, and never a 500.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from schemathesis import APIOperation, BaseSchema, Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import add_key, publish, serving, wait_served

from fedfleet.store.open import open_store
from fedfleet_inference_api.scopes import OPEN, ROUTES, WEBSOCKET, Scope

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 10
# Answers that go on until the caller leaves.
ENDLESS = {"/events", "/cameras/{name}/stream.mjpg"}
HEALTH = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
# What the document describes: not the pages, which need no key either.
DESCRIBED = [
    (method, path)
    for (method, path), wanted in ROUTES.items()
    if (wanted != OPEN or path in HEALTH) and method != WEBSOCKET and path not in ENDLESS
]
# Of paths: what there is.
KNOWN = {"name": "digits", "version": "1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, str]]:
    """A service that asks for keys, and a key for everything."""
    with open_store(f"sqlite:{tmp_path_factory.mktemp('fuzz')}") as store:
        publish(store, seed=0)
        version = publish(store, seed=1)
        key = add_key(store, *(scope.value for scope in Scope)).text
        options = {"rest_auth": "on", "rate_per_s": 0.0, "max_body_bytes": 200_000}
        with serving(store, **options) as (running, client):
            wait_served(running, version)
            yield client, key


@pytest.fixture(scope="module")
def schema(service: tuple[httpx.Client, str]) -> BaseSchema:
    client, _ = service
    loaded = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    loaded.config.update(base_url=str(client.base_url))
    return loaded


def cases_of(operation: APIOperation) -> SearchStrategy[Case]:
    """What the document allows and what it does not, of things that exist and of any others."""
    names = {parameter.name for parameter in operation.path_parameters}
    known = {name: value for name, value in KNOWN.items() if name in names}
    return st.one_of(
        [
            operation.as_strategy(generation_mode=mode, **given_parts)
            for mode in schemathesis.GenerationMode
            for given_parts in ([{}, {"path_parameters": known}] if known else [{}])
        ]
    )


def fuzz(operation: APIOperation, key: str, examples: int) -> list[int]:
    """Ask one operation for many things; the statuses of its answers."""
    statuses: list[int] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases_of(operation))
    def ask(case: Case) -> None:
        headers = {"x-api-key": key} if key else {}
        response = case.call(headers=headers, timeout=30.0)
        statuses.append(response.status_code)
        assert response.status_code != 500
        case.validate_response(response, checks=CHECKS)

    ask()
    return statuses


@pytest.mark.parametrize(("method", "path"), DESCRIBED)
def test_every_answer_is_one_that_the_document_names(service, schema, method, path):
    client, key = service

    statuses = fuzz(schema[path][method], key, EXAMPLES)

    assert statuses
    assert 401 not in statuses
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(("method", "path"), DESCRIBED)
def test_refusal_of_who_has_no_key_is_in_the_document_too(schema, method, path):
    statuses = set(fuzz(schema[path][method], "", 2))

    assert ROUTES[method, path] == OPEN or statuses <= {401, 404, 405}


def test_every_operation_of_the_document_is_asked(schema):
    found = {(one.ok().method.upper(), one.ok().path) for one in schema.get_all_operations()}

    assert {route for route in found if route[1] not in ENDLESS} == set(DESCRIBED)
