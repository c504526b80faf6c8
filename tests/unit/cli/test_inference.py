from __future__ import annotations

import socket
import threading

import pytest

from fedfleet.cli.inference import InferenceClient
from fedfleet.errors import InsecureAddress, SettingInvalid, Unavailable


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
