from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from fedfleet.errors import AddressInUse, SettingInvalid
from fedfleet.obs.ops_server import MAX_CONNECTIONS, OpsServer

PATIENCE_S = 10.0


class Readiness:
    """What the service says of itself."""

    def __init__(self) -> None:
        self.answer = (False, "no round yet")

    def __call__(self) -> tuple[bool, str]:
        return self.answer


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def server(readiness) -> Iterator[OpsServer]:
    registry = CollectorRegistry()
    Counter("fedfleet_test_rounds", "Rounds.", registry=registry).inc(3)
    with OpsServer("127.0.0.1", 0, readiness, registry) as running:
        yield running


def ask(server: OpsServer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_ops_server_answers_liveness_readiness_and_metrics(server, readiness):
    status, body = ask(server, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "detail": "no round yet"})

    readiness.answer = (True, "round 3")

    assert ask(server, "/readyz?verbose")[0] == 200
    assert json.loads(ask(server, "/livez")[1]) == {"live": True}
    assert "fedfleet_test_rounds_total 3.0" in ask(server, "/metrics")[1]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/", 404, "NOT_FOUND"), ("POST", "/livez", 501, "INVALID_INPUT")],
)
def test_ops_server_refuses_in_the_form_of_every_other_service(server, method, path, status, code):
    answered, body = ask(server, path, method)

    assert (answered, json.loads(body)["error"]["code"]) == (status, code)


def test_ops_server_answers_while_connections_hang_and_closes_those_beyond_its_bound(server):
    hanging = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]

    assert ask(server, "/livez")[0] == 200

    hanging += [
        socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)
    ]
    hanging[-1].settimeout(PATIENCE_S)
    assert hanging[-1].recv(1) == b""  # closed by the server at once
    for connection in hanging:
        connection.close()


def test_ops_server_names_a_port_that_is_taken(server, readiness):
    with pytest.raises(AddressInUse, match=f"port {server.port} of 127.0.0.1"):
        OpsServer("127.0.0.1", server.port, readiness, CollectorRegistry())


def test_ops_server_names_an_address_that_is_not_here(readiness):
    with pytest.raises(SettingInvalid, match=r"cannot listen on 203\.0\.113\.7"):
        OpsServer("203.0.113.7", 0, readiness, CollectorRegistry())


def test_ops_server_stops_without_having_started(readiness):
    server = OpsServer("127.0.0.1", 0, readiness, CollectorRegistry())

    server.stop()

    assert "ops-server" not in {thread.name for thread in threading.enumerate()}
