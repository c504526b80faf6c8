"""An RTSP camera that answers as a test says, and a place that nobody may be led to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track\r\n"
)


def answer(status: str = "200 OK", *headers: str, body: str = "") -> str:
    """``CSEQ`` stands for the number of what is answered."""
    lines = [f"RTSP/1.0 {status}", "CSeq: CSEQ", *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]) + body


GOOD = {
    "OPTIONS": answer("200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY"),
    "DESCRIBE": answer("200 OK", "Content-Type: application/sdp", body=SDP),
    "SETUP": answer("200 OK", "Session: 1", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"),
    "PLAY": answer("200 OK", "Session: 1"),
}


class ScriptedCamera:
    """Answers each method with its text, and hangs up after the last of them.

    Attributes:
        asked: what came, over all connections.
    """

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = {**GOOD, **answers}
        self.asked = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(10.0)
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        heard = b""
        while data := connection.recv(4096):
            self.asked += data
            heard += data
            while b"\r\n\r\n" in heard:
                request, _, heard = heard.partition(b"\r\n\r\n")
                method = request.split(b" ", 1)[0].decode()
                number = re.search(rb"CSeq: (\d+)", request)
                text = self._answers.get(method, answer())
                connection.sendall(
                    text.replace("CSEQ", number[1].decode() if number else "0").encode("latin-1")
                )
                if method == "PLAY":
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


class Trap:
    """A port that no connection and no packet may come to."""

    def __init__(self) -> None:
        self._tcp = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._tcp.setblocking(False)
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._udp.setblocking(False)

    @property
    def was_reached(self) -> bool:
        """A connection is accepted by the system before its opener goes on: none is missed."""
        with suppress(BlockingIOError):
            self._tcp.accept()[0].close()
            return True
        with suppress(BlockingIOError):
            return bool(self._udp.recv(1))
        return False

    def close(self) -> None:
        self._tcp.close()
        self._udp.close()
