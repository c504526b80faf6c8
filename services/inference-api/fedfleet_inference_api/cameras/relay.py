"""Stands between FFmpeg and a camera: FFmpeg itself connects to nothing but this.

FFmpeg's own RTSP client can neither be held to an address nor kept from following a redirect, and
checks certificates against what stands in the URL. So it is given a URL on loopback, and what is
on the other end was connected, and encrypted, by ``connection.py``.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time

from fedfleet_inference_api.cameras.answer_filter import AnswerFilter
from fedfleet_inference_api.cameras.faults import SourceFailed, code_of_error
from fedfleet_inference_api.cameras.heads import HeadInvalid
from fedfleet_inference_api.cameras.seen import CameraCode

ACCEPT_S = 10.0
CHUNK = 65536


class Relay:
    """Carries one connection, on a thread of its own that ends with it.

    Args:
        camera: the connection; the relay owns it.
        silence_s: after which the camera is given up. FFmpeg would do that too, and call it
            invalid data.
    """

    def __init__(self, camera: socket.socket, silence_s: float) -> None:
        self._camera = camera
        self._silence_s = silence_s
        self._camera.setblocking(False)
        self._filter = AnswerFilter()
        self._failure = CameraCode.NONE
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self._listener.settimeout(ACCEPT_S)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="camera-relay", daemon=True)
        self._thread.start()

    @property
    def code(self) -> CameraCode:
        """Why the camera refused or the connection ended, ``NONE`` where it did neither.

        A refusal says more than how the connection ended after it: who resets it after a wrong
        password must not be asked again as soon as one that has merely gone. Silence is another
        matter: the first refusal of a password that was not sent yet is none.
        """
        refusal = self._filter.code
        if refusal and not self._filter.is_open and self._failure is not CameraCode.TIMEOUT:
            return refusal
        return self._failure or refusal

    def _run(self) -> None:
        with contextlib.suppress(OSError), self._camera, self._listener:
            ffmpeg, _ = self._listener.accept()
            self._listener.close()  # the first is the only one
            with ffmpeg:
                # Said before the connection closes: FFmpeg's end asks for it then.
                try:
                    self._carry(ffmpeg)
                except HeadInvalid:
                    self._failure = CameraCode.FAILED
                except (OSError, SourceFailed) as error:
                    self._failure = code_of_error(error)

    def _carry(self, ffmpeg: socket.socket) -> None:
        heard_s = time.monotonic()
        while True:
            ready = [self._camera] if self._pending() else []
            if not ready:
                left_s = max(0.0, heard_s + self._silence_s - time.monotonic())
                ready, _, _ = select.select([ffmpeg, self._camera], [], [], left_s)
            if not ready:
                raise TimeoutError
            if ffmpeg in ready:
                asked = ffmpeg.recv(CHUNK)
                if not asked:
                    return
                self._filter.note_request(asked)
                self._send(asked)
            if self._camera in ready:
                answered = self._receive()
                if answered is None:
                    return
                ffmpeg.sendall(self._filter.feed(answered))
                heard_s = time.monotonic()

    def _pending(self) -> bool:
        """Whether TLS has decrypted what select does not see any more."""
        return isinstance(self._camera, ssl.SSLSocket) and self._camera.pending() > 0

    def _receive(self) -> bytes | None:
        """What is there, nothing where it is not whole yet; None: the camera has ended."""
        try:
            return self._camera.recv(CHUNK) or None
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._camera.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                select.select([], [self._camera], [])
            except ssl.SSLWantReadError:
                select.select([self._camera], [], [])
