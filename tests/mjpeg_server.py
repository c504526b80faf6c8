"""A camera that sends JPEG pictures over HTTP or HTTPS, with and without a password."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

REALM, NONCE = "yard", 'x"y'


class MjpegServer:
    """Paths: /stream, /basic, /digest, /still, /elsewhere (a redirect), else 404.

    Args:
        elsewhere: where the redirect leads.
        context: for HTTPS.
    """

    def __init__(
        self,
        user: str,
        password: str,
        *,
        elsewhere: str = "",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.user, self.password, self.elsewhere = user, password, elsewhere
        self.is_closing = threading.Event()
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.is_closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def basic(self) -> str:
        pair = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def is_digest(self, given: str, path: str) -> bool:
        """RFC 7616, section 3.4.1."""
        fields = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', given))
        if not given.startswith("Digest ") or "response" not in fields:
            return False
        secret = _md5(f"{self.user}:{REALM}:{self.password}")
        proof = f"{NONCE}:00000001:{fields['cnonce']}:auth:{_md5('GET:' + path)}"
        return fields["response"] == _md5(f"{secret}:{proof}") and fields["uri"] == path


class _Handler(BaseHTTPRequestHandler):
    server_of: MjpegServer

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        nonce = NONCE.replace('"', '\\"')
        if self.path == "/basic" and given != self.server_of.basic():
            self._refuse(f'Basic realm="{REALM}"')
        elif self.path == "/digest" and not self.server_of.is_digest(given, self.path):
            self._refuse(f'Digest realm="{REALM}", qop="auth", nonce="{nonce}", algorithm=MD5')
        elif self.path == "/elsewhere":
            self._head(302, {"Location": self.server_of.elsewhere})
        elif self.path == "/still":
            self._head(200, {"Content-Type": "image/jpeg"})
        elif self.path in ("/stream", "/basic", "/digest"):
            self._stream()
        else:
            self._head(404, {})

    def _refuse(self, challenge: str) -> None:
        self._head(401, {"WWW-Authenticate": challenge})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _stream(self) -> None:
        self._head(200, {"Content-Type": "multipart/x-mixed-replace; boundary=frame"})
        number = 0
        while not self.server_of.is_closing.wait(0.04):
            number += 1
            picture = jpeg_of(number * 5 % 256)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + picture + b"\r\n")
            except OSError:
                return

    def log_message(self, format: str, *args: object) -> None:
        pass


def jpeg_of(shade: int) -> bytes:
    out = io.BytesIO()
    pixels = np.full((120, 160, 3), shade, np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
