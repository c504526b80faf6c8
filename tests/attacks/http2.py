"""HTTP/2 by hand (RFC 9113, 7541), to hold back what no library would hold back."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections import defaultdict
from pathlib import Path
from types import TracebackType

from fedfleet.identity.credentials import Credentials
from fedfleet.identity.files import write_private
from fedfleet.identity.names import TARGET_NAME

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
CANCEL = 8
FRAME_BYTES = 1 << 14
FIRST_WINDOW = (1 << 16) - 1


def tls_context(credentials: Credentials | None, folder: Path = Path()) -> ssl.SSLContext:
    """A caller's side of TLS that trusts whoever answers.

    Args:
        credentials: what it shows.
        folder: where they are written to, for ssl reads nothing but files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if credentials is not None:
        path = folder / "caller.pem"
        write_private(path, credentials.key + credentials.chain)
        context.load_cert_chain(path)
    return context


def connect(port: int, context: ssl.SSLContext | None = None) -> socket.socket:
    """A connection to a port of loopback, in TLS where there is a context."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    if context is None:
        return plain
    return context.wrap_socket(plain, server_hostname=TARGET_NAME)


def begun(size: int) -> bytes:
    """How gRPC begins a message of a size in a stream."""
    return struct.pack(">BI", 0, size)


def message(data: bytes) -> bytes:
    """As gRPC puts a message into a stream."""
    return begun(len(data)) + data


class Http2:
    """One connection; streams are numbered 1, 3, 5. Sends no more than the other side's windows."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._socket = connect(port, context)
        self._came = b""
        self._next = 1
        self._window = FIRST_WINDOW
        self._first = FIRST_WINDOW
        self._windows: defaultdict[int, int] = defaultdict(lambda: self._first)
        self.most_streams: int | None = None
        self.ended: set[int] = set()
        self.is_closed = False
        self.came = 0
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))

    def __enter__(self) -> Http2:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, path: str) -> int:
        """Begin a gRPC call; returns its stream."""
        stream, block = self._begin(path)
        self._send(block)
        return stream

    def call_and_reset(self, path: str) -> None:
        """Begin a call and cancel it with the same bytes."""
        stream, block = self._begin(path)
        self._send(block + frame(RESET, 0, stream, CANCEL.to_bytes(4, "big")))

    def _begin(self, path: str) -> tuple[int, bytes]:
        stream, self._next = self._next, self._next + 2
        fields = {
            ":method": "POST",
            ":scheme": "https",
            ":path": path,
            ":authority": TARGET_NAME,
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(b"\0" + literal(name) + literal(value) for name, value in fields.items())
        return stream, frame(HEADERS, END_HEADERS, stream, block)

    def data(self, stream: int, data: bytes) -> int:
        """Send what the windows allow now, without ending the stream; returns how much."""
        size = max(0, min(len(data), self._window, self._windows[stream]))
        for at in range(0, size, FRAME_BYTES):
            self._send(frame(DATA, 0, stream, data[at : min(size, at + FRAME_BYTES)]))
        self._window -= size
        self._windows[stream] -= size
        return size

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            self.is_closed = True

    def pump(self, wait_s: float = 0.0) -> None:
        """Take what has come; ``came`` is how much that was."""
        self.came = 0
        while not self.is_closed and self._is_ready(wait_s):
            wait_s = 0.0
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.is_closed = True
            self._came += data
            self.came += len(data)
            while len(self._came) >= 9:
                size = int.from_bytes(self._came[:3], "big")
                if len(self._came) < 9 + size:
                    break
                kind, flags = self._came[3], self._came[4]
                stream = int.from_bytes(self._came[5:9], "big") & 0x7FFFFFFF
                self._take(kind, flags, stream, self._came[9 : 9 + size])
                self._came = self._came[9 + size :]

    def _is_ready(self, wait_s: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], wait_s)[0])

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(body), 6):
                name, value = struct.unpack_from(">HI", body, at)
                if name == 3:
                    self.most_streams = value
                if name == 4:
                    for opened in range(1, self._next, 2):
                        self._windows[opened] += value - self._first
                    self._first = value
            self._send(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._send(frame(PING, ACK, 0, body))
        elif kind == WINDOW:
            more = int.from_bytes(body, "big") & 0x7FFFFFFF
            if stream:
                self._windows[stream] += more
            else:
                self._window += more
        elif kind == RESET or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.ended.add(stream)


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def literal(text: str) -> bytes:
    """A string of a header that is put in no table (RFC 7541, 5.2 and 6.2.2 for a name)."""
    data = text.encode()
    return bytes([len(data)]) + data
