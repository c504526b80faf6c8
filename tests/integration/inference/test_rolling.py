"""Two services behind a balancer are restarted one after the other, and no request fails."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from harness import free_port
from serving import PATIENCE_S, png, publish, wait_until

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
CALLERS = 4
# Nothing is tried twice: a request that the services lose is one that fails.
CONFIG = """
defaults
  mode http
  retries 0
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout check 5s
frontend operators
  bind 127.0.0.1:{stats}
  stats enable
  stats uri /
frontend callers
  bind 127.0.0.1:{port}
  default_backend services
backend services
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 100ms fall 2 rise 1
  server first 127.0.0.1:{first}
  server second 127.0.0.1:{second}
"""


@contextmanager
def child(*command: str, log: Path, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    own = {f"FEDFLEET_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("ab") as out:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def are_up(stats: int) -> bool:
    """Whether the balancer sends requests to both; who restarts services waits for that."""
    try:
        text = httpx.get(f"http://127.0.0.1:{stats}/;csv", trust_env=False).text
    except httpx.TransportError:
        return False
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    states = {row["svname"]: row["status"] for row in rows if row["pxname"] == "services"}
    return states["first"] == states["second"] == "UP"


class Callers:
    """Threads that ask all the time, each over a connection that it keeps open."""

    def __init__(self, port: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url = f"http://127.0.0.1:{port}/predict"
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CALLERS)]

    def _ask(self) -> None:
        with httpx.Client(timeout=PATIENCE_S, trust_env=False) as client:
            while not self._done.is_set():
                try:
                    outcome = str(client.post(self._url, content=png()).status_code)
                except httpx.HTTPError as error:
                    outcome = repr(error)
                self.outcomes[outcome] += 1

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.timeout(300)  # four services start, one after the other
@pytest.mark.skipif(HAPROXY is None, reason="no haproxy here (Debian's package haproxy)")
def test_restart_of_one_after_the_other_fails_no_request(tmp_path, store):
    publish(store, seed=1)
    port, stats, *ports = (free_port() for _ in range(4))
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.format(port=port, stats=stats, first=ports[0], second=ports[1]))
    log = tmp_path / "services.log"
    command = (sys.executable, "-m", "fedfleet_inference_api")
    settings = {
        "store": f"sqlite:{tmp_path / 'state'}",
        "threads": 1,
        "drain_s": 2,
        "signer": "none",
    }

    def start(stack: ExitStack, own: int) -> subprocess.Popen[bytes]:
        return stack.enter_context(child(*command, log=log, inference_port=own, **settings))

    with ExitStack() as stack:
        services = {own: start(stack, own) for own in ports}
        assert HAPROXY is not None
        stack.enter_context(child(HAPROXY, "-db", "-f", str(config), log=log))
        wait_until(lambda: are_up(stats))
        with Callers(port) as callers:
            for own in ports:
                before = callers.outcomes.total()
                services[own].send_signal(signal.SIGTERM)
                assert services[own].wait(PATIENCE_S) == 0
                services[own] = start(stack, own)
                wait_until(lambda: are_up(stats))
                wait_until(lambda before=before: callers.outcomes.total() > before + 50)
        answered = callers.outcomes

    assert set(answered) == {"200"}, (answered, log.read_text()[-2000:])
    assert answered["200"] > 100
