from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fedfleet.cli.inference import InferenceClient
from fedfleet.errors import (
    CertificateInvalid,
    InsecureAddress,
    SettingInvalid,
    Unauthenticated,
    Unavailable,
)
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import FILE, save_credentials


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "file:///etc/passwd", "http://", "http://[::1", "http://host:99999"],
)
def test_client_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingInvalid, match="inference"):
        InferenceClient(url)


def test_client_refuses_plain_http_beyond_loopback() -> None:
    with pytest.raises(InsecureAddress):
        InferenceClient("http://192.0.2.1:8080")

    assert InferenceClient("http://192.0.2.1:8080", insecure=True).is_plain
    assert not InferenceClient("https://192.0.2.1").is_plain


def test_client_of_a_server_that_does_not_speak_http_says_so_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"\x00\x00\x18\x04 this is no HTTP\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(Unavailable, match="broke off"):
                InferenceClient(f"http://127.0.0.1:{port}").predict(b"image")
        finally:
            thread.join()


class _Echo(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    def do_GET(self) -> None:
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def echoing(certificate: Path | None = None) -> Iterator[str]:
    """The URL of a server; with HTTPS where a certificate is given."""
    with HTTPServer(("127.0.0.1", 0), _Echo) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            scheme = "http" if certificate is None else "https"
            yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_client_sends_its_key_with_every_request() -> None:
    with echoing() as url:
        with_key = InferenceClient(url, api_key="flk_1_2")

        assert with_key.served()["X-Api-Key"] == "flk_1_2"
        assert with_key.predict(b"image")["X-Api-Key"] == "flk_1_2"
        assert "X-Api-Key" not in InferenceClient(url).served()


@pytest.mark.parametrize("key", ["flk_1\r\nHost: other", "flk_\u00e9", "a\x00b"])
def test_client_refuses_a_key_that_is_no_header(key: str) -> None:
    with pytest.raises(SettingInvalid, match="FEDFLEET_API_KEY"):
        InferenceClient("http://127.0.0.1:8080", api_key=key)


def test_client_trusts_the_fleet_s_own_authority_where_it_is_given(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca")
    made = authority.issue_server(["127.0.0.1"], time.time(), 3600.0)
    save_credentials(tmp_path, made)

    with echoing(tmp_path / FILE) as url:
        assert InferenceClient(url, root=authority.root).served()
        with pytest.raises(CertificateInvalid, match="is not trusted"):
            InferenceClient(url).served()


class _Guarded(_Echo):
    """Asks for a key as the service does, and knows none."""

    def do_GET(self) -> None:
        body = {"error": {"code": "UNAUTHENTICATED", "message": "send it as X-API-Key"}}
        data = json.dumps(body).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_client_without_a_key_is_told_the_variable_and_not_the_header() -> None:
    with HTTPServer(("127.0.0.1", 0), _Guarded) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with pytest.raises(Unauthenticated, match="set FEDFLEET_API_KEY") as none:
                InferenceClient(url).served()
            with pytest.raises(Unauthenticated, match=r"^send it as X-API-Key$"):
                InferenceClient(url, api_key="wrong").served()
        finally:
            server.shutdown()
            thread.join()
    assert "X-API-Key" not in none.value.message
