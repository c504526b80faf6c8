"""Who is let in: keys and scopes over real HTTP, before a byte of a body is read."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from serving import add_key, png, publish, serving, wait_served

from fedfleet_inference_api.scopes import OPEN, ROUTES, WEBSOCKET, Scope

IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}
TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": [0] * 64}
INFERENCE = {"inputs": [TENSOR]}
# What those who are let in are told, where it is not 200.
LET_IN = {
    ("POST", "/served/rollback"): 409,  # none was served before
    ("POST", "/cameras"): 400,  # an image is no description of a camera
    ("GET", "/cameras/{name}"): 404,  # there are none
    ("DELETE", "/cameras/{name}"): 404,
    ("GET", "/cameras/{name}/snapshot.jpg"): 404,
    ("GET", "/cameras/{name}/stream.mjpg"): 404,
    (WEBSOCKET, "/events/ws"): 404,  # asked as HTTP; test_outputs.py opens sockets
}


@pytest.fixture(scope="module")
def guarded(shared_store) -> Iterator[httpx.Client]:
    """A service that asks for keys."""
    version = publish(shared_store, seed=1)
    with serving(shared_store, rest_auth="on", rate_per_s=0.0) as (service, connected):
        wait_served(service, version)
        yield connected


def ask(client: httpx.Client, method: str, path: str, key: str = "") -> httpx.Response:
    headers = {"x-api-key": key} if key else {}
    parts: dict[str, object] = {"content": png()} if method == "POST" else {}
    if path.endswith("/infer"):
        parts = {"json": INFERENCE}
    elif path.endswith("/batch"):
        parts = {"files": [("file", png())]}
    filled = path.format(name="digits", version=1)
    options: dict[str, object] = {"headers": headers, **parts}
    with client.stream(method, filled, **options) as response:  # type: ignore[arg-type]
        if "text/event-stream" not in response.headers["content-type"]:  # that goes on
            response.read()
        return response


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    # Below /v2 an error is one text.
    return response.status_code, error.split(":")[0] if isinstance(error, str) else error["code"]


def message(response: httpx.Response) -> str:
    error = response.json()["error"]
    return error if isinstance(error, str) else str(error["message"])


@pytest.mark.parametrize("route", ROUTES)
def test_route_answers_keys_of_its_scopes_and_no_others(guarded, shared_store, route):
    wanted = ROUTES[route]

    without = ask(guarded, *route)

    if wanted == OPEN:
        assert without.status_code == 200
        return
    assert code(without) == (401, "UNAUTHENTICATED")
    assert without.headers["www-authenticate"] == 'Bearer realm="fedfleet"'
    for scope in Scope:
        response = ask(guarded, *route, add_key(shared_store, scope.value).text)
        if scope in wanted:
            assert response.status_code == LET_IN.get(route, 200)
        else:
            assert code(response) == (403, "NOT_ALLOWED")
            assert f'scope="{wanted[0].value}"' in response.headers["www-authenticate"]
            assert wanted[0].value in message(response)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "{key}"},
        {"Authorization": "Bearer {key}"},
        {"Authorization": "bearer   {key}"},
        {"X-API-Key": "{key}", "Authorization": "Bearer {key}"},
    ],
)
def test_key_is_taken_from_either_header(guarded, shared_store, headers):
    key = add_key(shared_store, "predict").text
    filled = {name: value.format(key=key) for name, value in headers.items()}

    assert guarded.post("/predict", content=png(), headers=filled).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": ""},
        {"X-API-Key": "{key}0"},
        {"X-API-Key": "{key}, {key}"},
        {"X-API-Key": "{key}", "Authorization": "Bearer {other}"},
        {"X-API-Key": "{key}", "Authorization": "Basic {key}"},
        {"Authorization": "{key}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer {unknown}"},
        {"Cookie": "X-API-Key={key}"},
    ],
)
def test_anything_else_is_no_key(shared_store, headers):
    keys = {
        "key": add_key(shared_store, "predict").text,
        "other": add_key(shared_store, "predict").text,
        "unknown": f"flk_{'0' * 16}_{'0' * 40}",
    }
    filled = {name: value.format(**keys) for name, value in headers.items()}
    with serving(shared_store, rest_auth="on") as (_, client):
        response = client.post("/predict", content=png(), headers=filled)
        in_query = client.post("/predict", params={"x-api-key": keys["key"]}, content=png())

    assert response.status_code == in_query.status_code == 401
    assert not any(key in response.text for key in keys.values())


def test_paths_that_do_not_exist_are_told_to_those_with_a_key_only(guarded, shared_store):
    key = add_key(shared_store, "predict").text

    assert code(ask(guarded, "GET", "/nothing")) == (401, "UNAUTHENTICATED")
    assert code(ask(guarded, "DELETE", "/models/digits")) == (401, "UNAUTHENTICATED")
    assert code(ask(guarded, "GET", "/nothing", key)) == (404, "NOT_FOUND")
    assert code(ask(guarded, "DELETE", "/models/digits", key)) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("route", [route for route in ROUTES if ROUTES[route] != OPEN])
def test_line_break_behind_a_path_is_no_way_around_its_scope(guarded, shared_store, route):
    key = add_key(shared_store, Scope.CAMERAS_ADMIN.value).text

    assert code(ask(guarded, route[0], f"{route[1]}%0A", key)) == (404, "NOT_FOUND")
    assert code(ask(guarded, route[0], f"{route[1]}%0A")) == (404, "NOT_FOUND")


def test_caller_without_a_key_is_answered_before_it_has_sent_its_body(guarded):
    address = (guarded.base_url.host, guarded.base_url.port)
    with socket.create_connection(address, timeout=30) as caller:
        caller.sendall(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"
        )
        answer = caller.recv(1 << 16)

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer


def test_revoked_key_stops_within_a_second(store):
    version = publish(store, seed=1)
    made = add_key(store, "predict")
    with serving(store, rest_auth="on", rate_per_s=0.0) as (service, client):
        wait_served(service, version)
        assert ask(client, "POST", "/predict", made.text).status_code == 200
        store.access.delete_key(made.id)
        revoked_s = time.monotonic()
        while ask(client, "POST", "/predict", made.text).status_code == 200:
            assert time.monotonic() < revoked_s + 5
        stopped_s = time.monotonic()

    assert stopped_s - revoked_s < 1.5  # one, and the requests before and after it


def test_store_that_cannot_be_asked_lets_nobody_in(store):
    version = publish(store, seed=1)
    key = add_key(store, "predict").text
    with serving(store, rest_auth="on") as (service, client):
        wait_served(service, version)
        store.close()
        response = ask(client, "POST", "/predict", key)
        health = client.get("/livez")

    assert code(response) == (503, "STORE_UNAVAILABLE")
    assert response.headers["retry-after"] == "1"
    assert health.status_code == 200


def test_nobody_is_asked_for_a_key_where_the_service_is_told_not_to(store):
    version = publish(store, seed=1)
    for settings in ({}, {"rest_auth": "off"}):
        with serving(store, **settings) as (service, client):
            wait_served(service, version)
            assert client.post("/predict", **IMAGE).status_code == 200
            assert client.get("/models", headers={"x-api-key": "junk"}).status_code == 200


def test_service_without_keys_answers_to_names_it_knows_and_probes_to_any(shared_store):
    version = publish(shared_store, seed=1)
    opened = {"host": "0.0.0.0", "rest_auth": "off", "hostnames": frozenset({"fleet.lan"})}
    with serving(shared_store, **opened) as (service, client):
        wait_served(service, version)

        def under(name: str, path: str) -> int:
            return client.get(path, headers={"host": name}).status_code

        served = [under(name, "/served") for name in ("fleet.lan", "10.1.2.3:8080", "localhost")]
        refused = [under("evil.example", path) for path in ("/served", "/", "/metrics", "/nowhere")]
        probes = [under("evil.example", path) for path in ("/livez", "/readyz", "/v2/health/ready")]
        predicted = client.post("/predict", content=png(), headers={"host": "evil.example"})

    assert served == [200] * 3
    assert refused == [403] * 4
    assert probes == [200] * 3
    assert code(predicted) == (403, "NOT_ALLOWED")
    assert "FEDFLEET_HOSTNAMES" in message(predicted)
