"""Callers that each send a request as soon as they have the answer to the last one.

One thread on raw sockets, in a process of its own, so that what it costs is little and the same
for every server. Run as a script: PORT PATH CALLERS SECONDS FOLDER [HEADER ...], where the folder's
files are request bodies (application/json) and a header is NAME:VALUE; prints one JSON line.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WARM_UP_S = 1.0
LEAST = 20  # answers that are waited for, also beyond the seconds
LONGEST_S = 60.0


@dataclass(frozen=True)
class Load:
    """What callers saw.

    Args:
        per_s: answers per second.
        p50_ms, p99_ms: from the first byte sent to the last one received.
        failed: answers of another status than 200.
        answers: all of them, those of the warm-up too.
        cpu_ms: processor time of the server for each answer, for whoever measures that.
    """

    callers: int
    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    answers: int
    cpu_ms: float = 0.0


def load(
    port: int,
    path: str,
    callers: int,
    seconds: float,
    folder: Path,
    headers: Sequence[str] = (),
) -> Load:
    """Let callers ask for some seconds, in another process.

    Args:
        headers: of each request beside the usual ones, each NAME:VALUE.
    """
    arguments = (str(port), path, str(callers), str(seconds), str(folder), *headers)
    run = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise SystemExit(f"callers of port {port}: {run.stderr[-500:]}")
    return Load(**json.loads(run.stdout))


class _Caller:
    """One connection that is kept."""

    def __init__(self, port: int, requests: list[bytes], first: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LONGEST_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._next = first
        self._received = b""
        self._sent_s = 0.0

    def send(self) -> None:
        self._received = b""
        self._sent_s = time.perf_counter()
        self.socket.sendall(self._requests[self._next % len(self._requests)])
        self._next += 1

    def receive(self) -> tuple[float, bool] | None:
        """Seconds and success of an answer, None while it is not complete."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise SystemExit(f"the server closed a connection after {self._received[:200]!r}")
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        lines = head.lower().split(b"\r\n")
        length = next(int(x[15:]) for x in lines if x.startswith(b"content-length:"))
        if len(body) < length:
            return None
        return time.perf_counter() - self._sent_s, lines[0].split(b" ")[1] == b"200"


def _run(
    port: int, path: str, callers: int, seconds: float, folder: Path, headers: Sequence[str]
) -> Load:
    more = "".join(f"{header}\r\n" for header in headers)
    requests = []
    for file in sorted(folder.iterdir()):
        body = file.read_bytes()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{more}\r\n"
        )
        requests.append(head.encode() + body)
    selector = selectors.DefaultSelector()
    for number in range(callers):
        caller = _Caller(port, requests, number)
        selector.register(caller.socket, selectors.EVENT_READ, caller)
        caller.send()
    begin_s = time.perf_counter() + WARM_UP_S
    until_s = begin_s + seconds
    times_s: list[float] = []
    failed = answers = 0
    while (now_s := time.perf_counter()) < until_s or (
        len(times_s) < LEAST and now_s < until_s + LONGEST_S
    ):
        for key, _ in selector.select(1.0):
            caller = key.data
            answer = caller.receive()
            if answer is None:
                continue
            answers += 1
            if now_s >= begin_s:
                times_s.append(answer[0])
                failed += not answer[1]
            caller.send()
    ended_s = time.perf_counter()
    ranked = statistics.quantiles(times_s, n=100, method="inclusive")
    return Load(
        callers=callers,
        per_s=len(times_s) / (ended_s - begin_s),
        p50_ms=1e3 * ranked[49],
        p99_ms=1e3 * ranked[98],
        failed=failed,
        answers=answers,
    )


if __name__ == "__main__":
    done = _run(
        int(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        float(sys.argv[4]),
        Path(sys.argv[5]),
        sys.argv[6:],
    )
    sys.stdout.write(json.dumps(done.__dict__) + "\n")
