from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from filming import PASSWORD, USER, camera, filming
from mjpeg_server import MjpegServer, jpeg_of

from fedfleet.identity.authority import Authority
from fedfleet_inference_api.cameras.networks import CameraNetworks
from fedfleet_inference_api.cameras.newest_part import NewestPart
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState
from fedfleet_inference_api.cameras.source import open_source
from fedfleet_inference_api.cameras.spec import Spec
from fedfleet_inference_api.cameras.urls import parse_place

STREAMING, BACKOFF = CameraState.STREAMING, CameraState.BACKOFF
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}@"


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    (folder / "root.pem").write_bytes(Authority.open(folder / "ca").root)
    return folder


def spec_of(url: str) -> Spec:
    return Spec(
        url=url,
        fps=5.0,
        stall_s=6.0,
        max_side=640,
        memory_mb=1024,
        sequence=0,
        ring_fd=-1,
        parent=0,
        networks=CameraNetworks(),
        ca_file=None,
        loop=True,
    )


def context_for(authority: Path, name: str) -> ssl.SSLContext:
    made = Authority.open(authority / "ca").issue_server([name], time.time(), 3600.0)
    (authority / f"{name}.pem").write_bytes(made.chain + made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / f"{name}.pem")
    return context


@pytest.fixture(scope="module")
def mjpeg() -> Iterator[MjpegServer]:
    server = MjpegServer(USER, PASSWORD)
    yield server
    server.close()


def test_every_way_of_an_http_camera_to_stream_or_to_refuse(mjpeg):
    there = f"127.0.0.1:{mjpeg.port}"
    refusals = {
        "none": (f"http://{there}/basic", CameraCode.AUTH_FAILED),
        "wrong": (f"http://{USER}:guessed@{there}/digest", CameraCode.AUTH_FAILED),
        "missing": (f"http://{there}/nowhere", CameraCode.NOT_FOUND),
        "still": (f"http://{there}/still", CameraCode.NO_VIDEO),
    }
    streams = {name: f"http://{LOGIN}{there}/{name}" for name in ("stream", "basic", "digest")}
    urls = {name: url for name, (url, _) in refusals.items()} | streams
    cameras = [camera(name, url, fps=50.0) for name, url in urls.items()]

    with filming(*cameras) as film:
        for name, (_, code) in refusals.items():
            film.until(name, BACKOFF, code)
        for name in streams:
            film.until(name, STREAMING, CameraCode.NONE)
            frame = film.cameras.wait(name, 1, 10.0)
            assert frame is not None
            assert frame.pixels.shape == (120, 160, 3)
            assert frame.media_s is None, "pictures over HTTP have no clock"
            assert film.cameras.status(name).codec == "mjpeg"


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtsps"])
def test_camera_that_takes_the_connection_and_says_nothing_times_out(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live"
        with filming(camera("mute", url, fps=50.0, stall_s=0.5)) as film:
            film.until("mute", BACKOFF, CameraCode.TIMEOUT)


def test_certificate_is_checked_against_name_and_authority(authority):
    right = MjpegServer(USER, PASSWORD, context=context_for(authority, "localhost"))
    wrong = MjpegServer(USER, PASSWORD, context=context_for(authority, "door.lan"))
    root = authority / "root.pem"
    cameras = [
        camera("right", f"https://localhost:{right.port}/stream", ca_file=root),
        camera("other-name", f"https://localhost:{wrong.port}/stream", ca_file=root),
        camera("nobody-knows-it", f"https://localhost:{right.port}/stream"),
    ]

    try:
        with filming(*cameras) as film:
            film.until("right", STREAMING, CameraCode.NONE)
            film.until("other-name", BACKOFF, CameraCode.TLS_FAILED)
            film.until("nobody-knows-it", BACKOFF, CameraCode.TLS_FAILED)
    finally:
        right.close()
        wrong.close()


class TlsFront:
    """Takes TLS off the connections to a port of loopback."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._context, self._target = context, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(plain,), daemon=True).start()

    def _carry(self, plain: socket.socket) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as outside,
            socket.create_connection(("127.0.0.1", self._target)) as inside,
        ):
            other = threading.Thread(target=_pour, args=(outside, inside), daemon=True)
            other.start()
            _pour(inside, outside)
            other.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def test_rtsp_over_tls_streams_and_its_certificate_is_checked(authority, rtsp):
    right = TlsFront(context_for(authority, "localhost"), rtsp.guarded_port)
    wrong = TlsFront(context_for(authority, "door.lan"), rtsp.guarded_port)
    root = authority / "root.pem"
    cameras = [
        camera("right", f"rtsps://{LOGIN}localhost:{right.port}/live", ca_file=root),
        camera("other-name", f"rtsps://{LOGIN}localhost:{wrong.port}/live", ca_file=root),
        camera("nobody-knows-it", f"rtsps://{LOGIN}localhost:{right.port}/live"),
        camera("no-tls", f"rtsps://localhost:{rtsp.port}/live", ca_file=root),
    ]

    try:
        with filming(*cameras) as film:
            film.until("right", STREAMING, CameraCode.NONE)
            assert film.cameras.wait("right", 5, 10.0) is not None
            film.until("other-name", BACKOFF, CameraCode.TLS_FAILED)
            film.until("nobody-knows-it", BACKOFF, CameraCode.TLS_FAILED)
            film.until("no-tls", BACKOFF, CameraCode.TLS_FAILED)
    finally:
        right.close()
        wrong.close()


def test_pictures_that_came_while_nobody_decoded_are_passed_over():
    count, sent = 400, threading.Event()
    picture = b"--b\r\nContent-Length: %d\r\n\r\n%b\r\n"

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\n\r\n"
            )
            for number in range(1, count + 1):
                jpeg = jpeg_of(250 if number == count else 20)
                connection.sendall(picture % (len(jpeg), jpeg))
        sent.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        source = open_source(spec_of(url), parse_place(url))
        assert sent.wait(10.0)
        assert isinstance(source.feed, NewestPart)
        source.feed._thread.join()
        shown = [int(f.to_ndarray(format="rgb24").mean()) for f in source.container.decode(video=0)]
        dropped = source.dropped
        source.close()
        thread.join()

    assert len(shown) + dropped >= count - 1, "one to see what it is"
    assert dropped > count / 2
    assert shown[-1] > 200, "the newest"
