"""Why a connection through the relay ended, with the test as FFmpeg and as the camera."""

from __future__ import annotations

import socket
import struct

import pytest
from scripted_camera import GOOD, answer

from fedfleet_inference_api.cameras.relay import Relay
from fedfleet_inference_api.cameras.seen import CameraCode

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no time at all
DENIED, MISSING = answer("401 Unauthorized"), answer("404 Not Found")


def read(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end) and (more := connection.recv(4096)):
        data += more
    return data


@pytest.mark.parametrize(
    ("answers", "ending", "code"),
    [
        ([DENIED], "reset", CameraCode.AUTH_FAILED),
        ([DENIED, DENIED], "reset", CameraCode.AUTH_FAILED),
        ([DENIED, DENIED], "nonsense", CameraCode.AUTH_FAILED),
        ([MISSING], "reset", CameraCode.NOT_FOUND),
        ([MISSING], "end", CameraCode.NOT_FOUND),
        ([GOOD["DESCRIBE"]], "reset", CameraCode.ENDED),
        ([DENIED, GOOD["DESCRIBE"]], "reset", CameraCode.ENDED),
        ([DENIED], "silence", CameraCode.TIMEOUT),
    ],
)
def test_refusal_is_told_however_the_connection_ends_after_it(answers, ending, code):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(socket.create_connection(listener.getsockname()), 0.5)
        camera, _ = listener.accept()
    ffmpeg = socket.create_connection(("127.0.0.1", relay.port))
    with camera, ffmpeg:
        for text in answers:
            ffmpeg.sendall(b"DESCRIBE rtsp://camera/ RTSP/1.0\r\n\r\n")
            read(camera, b"\r\n\r\n")
            camera.sendall(text.encode())
            ffmpeg.recv(4096)
        if ending == "nonsense":
            camera.sendall(b"GET / HTTP/9.9\r\n\r\n")
        if ending == "reset":
            camera.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if ending in ("reset", "end"):
            camera.close()
        assert read(ffmpeg, b"never") == b""  # the code is said before the end

    assert relay.code is code
