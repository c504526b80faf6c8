"""A TCP relay that counts what goes through it: the bytes of one worker's connections, framing and
headers of HTTP/2 and gRPC included, those of TCP and IP not.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 1 << 18


class Counts:
    """Bytes so far, seen from the worker: ``up`` to the coordinator, ``down`` from it."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0


@contextmanager
def counted_way(port: int) -> Iterator[tuple[str, Counts]]:
    """A relay to a port of loopback while the body runs; yields its address and its counts."""
    counts = Counts()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, counts), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", counts


def _accept(listener: socket.socket, port: int, counts: Counts) -> None:
    while True:
        try:
            worker, _ = listener.accept()
        except OSError:
            return  # it was closed
        try:
            coordinator = socket.create_connection(("127.0.0.1", port))
        except OSError:
            worker.close()  # it finds nobody there, and tries again
            continue
        for way in ((worker, coordinator, counts, "up"), (coordinator, worker, counts, "down")):
            threading.Thread(target=_pump, args=way, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, counts: Counts, way: str) -> None:
    """Move bytes one way until an end is closed; one thread for each count and connection."""
    with suppress(OSError):  # the other end was reset
        while data := source.recv(PIECE):
            setattr(counts, way, getattr(counts, way) + len(data))
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
