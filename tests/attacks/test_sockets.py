"""WebSockets of callers without a key, of pages of elsewhere, and of those who only pretend."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from serving import add_key, publish, serving, wait_served, wait_until
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.cameras.seen import CameraEvent
from fedfleet_inference_api.service import InferenceService

STALL_S = 1.0
PATIENCE_S = 30.0
UPGRADE = b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path / 'state'}") as opened:
        yield opened


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[tuple[Store, InferenceService, httpx.Client]]:
    """A service that asks for keys."""
    with open_store(f"sqlite:{tmp_path_factory.mktemp('guarded')}") as store:
        version = publish(store, seed=1)
        with serving(store, rest_auth="on", rate_per_s=0.0) as (service, client):
            wait_served(service, version)
            yield store, service, client


def url(client: httpx.Client, path: str = "/events/ws?after=0") -> str:
    return f"ws://{client.base_url.netloc.decode()}{path}"


def dial(client: httpx.Client) -> socket.socket:
    address = (client.base_url.host, client.base_url.port)
    return socket.create_connection(address, timeout=PATIENCE_S)


def handshake(*headers: bytes, path: bytes = b"/events/ws?after=0") -> bytes:
    key = b"sec-websocket-key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
    return (
        b"GET "
        + path
        + b" HTTP/1.1\r\nhost: localhost\r\n"
        + UPGRADE
        + key
        + b"".join(headers)
        + b"\r\n"
    )


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """One masked frame of less than 64 KiB, its mask all zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def rest_of(caller: socket.socket) -> bytes:
    data = b""
    try:
        while piece := caller.recv(1 << 16):
            data += piece
    except ConnectionError:
        pass
    return data


def refusal(client: httpx.Client, **options: object) -> tuple[int, str]:
    """How a socket was refused; nothing but that answer came."""
    with pytest.raises(InvalidStatus) as refused, connect(url(client), proxy=None, **options):
        pass
    response = refused.value.response
    assert "sec-websocket-accept" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.body is not None
    return response.status_code, str(json.loads(response.body)["error"]["code"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"additional_headers": {"x-api-key": "junk"}},
        {"additional_headers": {"x-api-key": f"flk_{'0' * 16}_{'0' * 40}"}},
        {"additional_headers": {"cookie": "x-api-key={key}"}},
        {"additional_headers": {"authorization": "Basic {key}"}},
        {"additional_headers": {"x-api-key": "{key}"}, "subprotocols": ["key.other"]},
        {"subprotocols": ["fedfleet.v1"]},
        {"subprotocols": ["fedfleet.v1", "key.junk"]},
        {"subprotocols": ["fedfleet.v1", "key."]},
        {"subprotocols": ["{key}"]},
    ],
)
def test_socket_without_its_key_gets_nothing(guarded, options):
    store, service, client = guarded
    key = add_key(store, "cameras:read").text
    filled = {
        name: {header: text.format(key=key) for header, text in value.items()}
        if isinstance(value, dict)
        else [text.format(key=key) for text in value]
        for name, value in options.items()
    }

    assert refusal(client, **filled) in ((401, "UNAUTHENTICATED"), (401, "TOKEN_INVALID"))
    assert service.station.hub.readers == 0


@pytest.mark.parametrize("path", ["/events/ws", "/events", "/nothing", "/predict", "/"])
def test_socket_to_any_path_without_a_key_gets_nothing_or_what_everybody_gets(guarded, path):
    with pytest.raises(InvalidStatus) as refused, connect(url(guarded[2], path), proxy=None):
        pass

    assert refused.value.response.status_code in (401, 403)


@pytest.mark.parametrize("scope", ["predict", "models:read", "models:promote"])
def test_socket_with_a_key_for_something_else_gets_nothing(guarded, scope):
    store, _, client = guarded
    headers = {"x-api-key": add_key(store, scope).text}

    assert refusal(client, additional_headers=headers) == (403, "NOT_ALLOWED")


@pytest.mark.parametrize("scope", ["cameras:read", "cameras:admin"])
def test_key_opens_a_socket_by_header_or_as_subprotocol_and_is_not_sent_back(guarded, scope):
    store, _, client = guarded
    key = add_key(store, scope).text
    for options in (
        {"additional_headers": {"x-api-key": key}},
        {"additional_headers": {"authorization": f"Bearer {key}"}},
        {"subprotocols": ["fedfleet.v1", f"key.{key}"]},
    ):
        with connect(url(client), proxy=None, **options) as opened:
            event = json.loads(opened.recv(PATIENCE_S))
            assert event["kind"] == "version_served"
            assert opened.response is not None
            assert key not in str(opened.response.headers)
            assert opened.subprotocol == ("fedfleet.v1" if "subprotocols" in options else None)


def test_wrong_keys_of_sockets_are_counted_like_all_others(store):
    with serving(store, rest_auth="on") as (_, client):
        answers = [
            refusal(client, subprotocols=[f"key.flk_{number:016x}_{'0' * 40}"])
            for number in range(14)
        ]

    assert answers[0] == (401, "UNAUTHENTICATED")
    assert answers[-1] == (429, "LIMIT_EXCEEDED")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_page_of_another_host_cannot_open_a_socket_where_no_key_is_asked_for(store, origin):
    with serving(store) as (_, client):
        assert refusal(client, origin=origin) == (403, "NOT_ALLOWED")
        own = f"http://{client.base_url.netloc.decode()}"
        with connect(url(client, "/events/ws"), proxy=None, origin=own):
            pass


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /events/ws HTTP/1.1\r\nhost: localhost\r\n" + UPGRADE + b"\r\n",
        handshake(b"content-length: 5\r\n") + b"hello",
        handshake(b"transfer-encoding: chunked\r\n"),
        handshake(*(b"x-%d: y\r\n" % number for number in range(300))),
        handshake(b"x: " + b"y" * 9000 + b"\r\n"),
        handshake().replace(b"version: 13", b"version: 12"),
        handshake().replace(b"GET", b"POST"),
        handshake(path=b"/events/ws?" + b"x" * 9000),
    ],
    ids=["no key", "body", "chunks", "headers", "long header", "version", "method", "long path"],
)
def test_handshake_that_is_none_ends_the_connection(store, request_):
    with serving(store, stall_s=STALL_S) as (service, client), dial(client) as caller:
        begun_s = time.monotonic()
        caller.sendall(request_)
        answer = rest_of(caller)
        took_s = time.monotonic() - begun_s
        assert client.get("/livez").status_code == 200

    assert b" 101 " not in answer
    assert took_s < STALL_S + 5
    assert service.station.hub.readers == 0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(1, b"hello"), 1008),
        (frame(2, b"\0"), 1008),
        (frame(1, b"x" * 2000), 1009),
        (frame(1, b"\xff\xfe"), 1007),
        (b"\x81\x05hello", 1002),  # without a mask
        (b"\xf1\x80" + bytes(4), 1002),  # bits that mean nothing
        (b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4), 1009),
    ],
    ids=["text", "bytes", "long", "no text", "no mask", "bits", "terabyte"],
)
def test_whatever_is_sent_ends_the_socket(store, sent, code):
    with serving(store, stall_s=STALL_S) as (service, client), dial(client) as caller:
        caller.sendall(handshake())
        assert caller.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
        caller.sendall(sent)
        answer = rest_of(caller)
        wait_until(lambda: service.station.hub.readers == 0)

    assert struct.pack(">H", code) in answer


def test_streams_that_rest_are_kept_for_longer_than_any_wait_of_a_request(store):
    settings = {"stall_s": STALL_S / 4, "request_timeout_s": STALL_S / 4}
    with (
        serving(store, **settings) as (service, client),
        connect(url(client, "/events/ws"), proxy=None) as opened,
        client.stream("GET", "/events") as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "retry: 2000"
        threading.Event().wait(STALL_S)
        service.station.hub.publish(CameraEvent(camera="", at_s=0.0, kind="test", fields={}))
        assert json.loads(opened.recv(PATIENCE_S))["kind"] == "test"
        assert "event: test" in lines


def test_pings_whose_answers_nobody_reads_fill_no_memory(store):
    with serving(store, stall_s=STALL_S) as (service, client), dial(client) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(handshake())
        assert caller.recv(12) == b"HTTP/1.1 101"
        flood = frame(9, b"x" * 100) * 1000
        sent = 0
        caller.settimeout(PATIENCE_S)
        with pytest.raises(OSError):  # it is cut off, instead of heard for ever
            while sent < 1 << 30:
                caller.sendall(flood)
                sent += len(flood)
        wait_until(lambda: service.station.hub.readers == 0)

    assert sent < 1 << 25


def test_reader_that_does_not_read_is_cut_off_and_holds_up_nobody(store):
    with (
        serving(store, stall_s=STALL_S) as (service, client),
        connect(url(client, "/events/ws"), proxy=None) as other,
        dial(client) as caller,
    ):
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.sendall(handshake())
        assert caller.recv(12) == b"HTTP/1.1 101"
        wait_until(lambda: service.station.hub.readers == 2)
        fields = {"text": "x" * 20_000}
        deadline_s = time.monotonic() + PATIENCE_S
        heard = 0
        while service.station.hub.readers == 2:
            assert time.monotonic() < deadline_s
            event = CameraEvent(camera="yard", at_s=0.0, kind="test", fields=fields)
            service.station.hub.publish(event)
            heard += json.loads(other.recv(PATIENCE_S))["kind"] == "test"

    assert heard > 10


def test_sockets_of_one_address_are_bounded_like_its_other_connections(store):
    with (
        serving(store, address_connections=8, stall_s=STALL_S) as (service, client),
        ExitStack() as stack,
    ):
        for _ in range(6):
            stack.enter_context(connect(url(client, "/events/ws"), proxy=None))
        wait_until(lambda: service.station.hub.readers == 6)
        # However far its handshake came when the connection was closed.
        with pytest.raises((ConnectionClosed, InvalidMessage, OSError)):
            for _ in range(6):
                stack.enter_context(
                    connect(url(client, "/events/ws"), proxy=None, open_timeout=PATIENCE_S)
                )


def test_revoked_key_ends_a_socket_within_seconds(guarded):
    store, service, client = guarded
    made = add_key(store, "cameras:read")
    subprotocols = [f"key.{made.text}"]
    with connect(url(client, "/events/ws"), proxy=None, subprotocols=subprotocols) as opened:
        timer = threading.Timer(0.1, lambda: store.access.delete_key(made.id))
        timer.start()
        with pytest.raises(ConnectionClosed) as closed:
            opened.recv(PATIENCE_S)
        timer.join()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    wait_until(lambda: service.station.hub.readers == 0)
