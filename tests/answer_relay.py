"""A TCP relay before a server that keeps answers, or whole requests, from arriving."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 1 << 16


class AnswerRelay:
    """Relays connections to a port of loopback, each by two threads.

    Attributes:
        address: where it listens.
        lost_answers: how many answers it has kept.
        held_requests: how many requests wait for ``deliver``.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._passing = 0  # answers that still pass before the next is lost
        self._losing = 0
        self._holds = False
        self._held: list[bytes] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.lost_answers = 0
        self._start(self._accept)

    @property
    def held_requests(self) -> int:
        return len(self._held)

    def lose_answers(self, count: int, after: int = 0) -> None:
        """Cut the connection where the next answers come, after some that pass."""
        with self._lock:
            self._passing, self._losing = after, count

    def hold_requests(self) -> None:
        """Cut every connection where a request comes, and keep the request."""
        self._holds = True

    def pass_requests(self) -> None:
        self._holds = False

    def deliver(self) -> None:
        """Send the requests that were held; return once the server has answered each."""
        for request in self._held:
            with socket.create_connection(self._target) as server:
                server.sendall(request)
                assert server.recv(PIECE)
        self._held.clear()

    def close(self) -> None:
        _cut(self._listener)
        for end in list(self._open):
            _cut(end)
        for thread in self._threads:
            thread.join()

    def _start(self, work: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:  # nobody there
                _cut(near)
                continue
            self._open |= {near, far}
            self._start(self._up, near, far)
            self._start(self._down, near, far)

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(PIECE):
                if self._holds:
                    self._held.append(data)
                    break
                far.sendall(data)
        _cut(far)
        _cut(near)

    def _down(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(PIECE):
                if self._is_lost():
                    break
                near.sendall(data)
        _cut(far)
        _cut(near)

    def _is_lost(self) -> bool:
        with self._lock:
            if self._passing or not self._losing:
                self._passing = max(0, self._passing - 1)
                return False
            self._losing -= 1
            self.lost_answers += 1
            return True


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def answer_relay(port: int) -> Iterator[AnswerRelay]:
    relay = AnswerRelay(port)
    try:
        yield relay
    finally:
        relay.close()
