"""Callers that hold on: slow headers, slow bodies, answers that are not read, connections alone."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from serving import png, publish, serving, wait_served, wait_until

from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store

STALL_S = 0.4
TIMEOUT_S = 0.6
IMAGE = {"content": png(), "headers": {"content-type": "image/png"}}
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\n"


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


def connect(client: httpx.Client, source: str = "127.0.0.1") -> socket.socket:
    address = (client.base_url.host, client.base_url.port)
    return socket.create_connection(address, timeout=30, source_address=(source, 0))


def rest_of(caller: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    data = b""
    try:
        while piece := caller.recv(1 << 16):
            data += piece
    except ConnectionError:  # it was closed with bytes of ours unread
        pass
    return data


@contextmanager
def trickling(caller: socket.socket, piece: bytes) -> Iterator[None]:
    """Send a piece now and then, faster than any limit on silence."""
    done = threading.Event()

    def send() -> None:
        while not done.wait(STALL_S / 8):
            try:
                caller.sendall(piece)
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET /livez HTTP/1.1\r\n", b"x: y\r\n"),
        (b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ", b"y"),
        (b"G", b"E"),
    ],
)
def test_headers_that_never_end_are_cut_off(store, begun, piece):
    with serving(store, stall_s=STALL_S) as (_, client), connect(client) as caller:
        begun_s = time.monotonic()
        caller.sendall(begun)
        with trickling(caller, piece):
            answer = rest_of(caller)
        took_s = time.monotonic() - begun_s

    assert STALL_S * 0.9 < took_s < STALL_S + 5
    # What is sent meanwhile may reset the connection under the answer.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")


def test_connection_that_says_nothing_is_closed(store):
    with serving(store, stall_s=STALL_S) as (_, client), connect(client) as caller:
        assert rest_of(caller) == b""


def test_second_request_gets_no_more_time_than_the_first(store):
    with serving(store, stall_s=STALL_S) as (_, client), connect(client) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nGET /livez")
        with trickling(caller, b"/"):
            answer = rest_of(caller)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 408 " in answer


def test_connection_that_rests_between_requests_is_kept(store):
    with serving(store, stall_s=STALL_S / 4) as (_, client), connect(client) as caller:
        for _ in range(2):
            caller.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = b""
            while b'{"live":true}' not in answer:
                answer += caller.recv(1 << 16)
            caller.settimeout(STALL_S)
            with pytest.raises(TimeoutError):
                caller.recv(1)
            caller.settimeout(30)


def test_body_that_stops_coming_is_given_up(store):
    with serving(store, stall_s=STALL_S) as (service, client), connect(client) as caller:
        caller.sendall(HEAD + b"half")
        answer = rest_of(caller)
        wait_until(lambda: service.busy == 0)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"TIMED_OUT"' in answer


def test_body_that_trickles_is_answered_and_then_cut_off(store):
    with serving(store, stall_s=STALL_S, request_timeout_s=TIMEOUT_S) as (service, client):
        with connect(client) as caller:
            caller.sendall(HEAD)
            with trickling(caller, b"x"):
                answer = rest_of(caller)
        wait_until(lambda: service.busy == 0)

    assert answer.startswith(b"HTTP/1.1 504 ")


def test_slow_uploads_on_every_place_keep_nobody_out(store):
    version = publish(store, seed=1)
    with (
        serving(store, stall_s=30, max_pending=2, batch_images=2, bodies_mb=16) as (
            service,
            client,
        ),
        ExitStack() as held,
    ):
        wait_served(service, version)
        for _ in range(60):
            held.enter_context(connect(client)).sendall(HEAD + b"x")
        wait_until(lambda: service.busy == 60)

        answers = [client.post("/predict", **IMAGE).status_code for _ in range(5)]

    assert answers == [200] * 5


def test_bodies_together_are_bounded_by_what_has_come(store):
    """Half of the memory is held by uploads that stop; what is announced counts for nothing."""
    version = publish(store, seed=1)
    limit = 1 << 20
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % limit
    with (
        serving(store, stall_s=30, max_body_bytes=limit, bodies_mb=1) as (service, client),
        ExitStack() as held,
    ):
        wait_served(service, version)
        callers = [held.enter_context(connect(client)) for _ in range(4)]
        for caller in callers:
            caller.sendall(head + bytes(100_000))
        wait_until(lambda: service.busy == 4)
        passed = client.post("/predict", **IMAGE)
        callers[0].sendall(bytes(900_000))
        refused = rest_of(callers[0])
        wait_until(lambda: service.busy == 3)
        after = client.post("/predict", **IMAGE)

    assert (passed.status_code, after.status_code) == (200, 200)
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in refused


def test_answers_that_are_not_read_end_the_connection(store):
    with serving(store, stall_s=STALL_S) as (_, client), connect(client) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /page/style.css HTTP/1.1\r\nhost: localhost\r\n\r\n"
        caller.settimeout(30)
        with pytest.raises(ConnectionError):
            while True:
                caller.sendall(request * 100)
        assert client.get("/livez").status_code == 200


def test_one_address_cannot_take_every_connection(store):
    with (
        serving(store, max_connections=20, address_connections=10) as (service, client),
        ExitStack() as held,
    ):
        for _ in range(30):
            held.enter_context(connect(client, "127.0.0.2"))
        refused = service.metrics.refused_connections.labels("address")
        wait_until(lambda: refused._value.get() == 20)

        assert client.get("/livez").status_code == 200  # from 127.0.0.1


@pytest.mark.slow
def test_ten_thousand_connections_are_refused_and_who_is_connected_is_served(store):
    version = publish(store, seed=1)
    most, tried = 200, 10_000
    with serving(store, max_connections=most, address_connections=most) as (service, client):
        wait_served(service, version)
        assert client.get("/livez").status_code == 200  # which keeps its connection
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        open_now: list[socket.socket] = []
        answered = 0
        for number in range(tried):
            open_now.append(connect(client, f"127.0.{number % 50 + 1}.1"))
            if len(open_now) == 2 * most:  # the older half, of which most was closed already
                for caller in open_now[:most]:
                    caller.close()
                del open_now[:most]
            if number % 500 == 0:
                answered += client.post("/predict", **IMAGE).status_code == 200
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        for caller in open_now:
            caller.close()
        refused = service.metrics.refused_connections.labels("all")._value.get()

        wait_until(lambda: _is_served(client))

    assert answered == tried // 500
    assert refused > tried / 4
    assert grown_kb < 50_000


def _is_served(client: httpx.Client) -> bool:
    """Over a new connection."""
    try:
        return httpx.get(f"{client.base_url}/livez", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
