"""A real redis-server on loopback, whose life the test decides about.

FEDFLEET_TEST_REDIS names another program, for example a valkey-server.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REDIS = os.environ.get("FEDFLEET_TEST_REDIS", "redis-server")

# What docs/redis.md asks for; without snapshots, which these tests need not wait for.
DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": "",
}


def redis_version() -> tuple[int, int]:
    """Of the program; skips the test where there is none."""
    if shutil.which(REDIS) is None:
        pytest.skip(f"{REDIS} is not installed here: apt-get install redis-server")
    told = subprocess.run([REDIS, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=(\d+)\.(\d+)", told)
    assert match, told
    return int(match[1]), int(match[2])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class RedisProcess:
    """One server with its folder; started, stopped, killed, and started on the folder again.

    Args:
        tls: whether it answers with TLS only; the settings name the files.
        settings: lines of redis.conf beside those that durability needs, or instead of them.
    """

    def __init__(self, folder: Path, *, tls: bool = False, **settings: str) -> None:
        redis_version()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._settings = {
            **DURABLE,
            **{name.replace("_", "-"): value for name, value in settings.items()},
            "port": "0" if tls else str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
        }
        if tls:
            self._settings["tls-port"] = str(self.port)
        self.bus_port = free_port()  # of a cluster's servers between themselves
        if "cluster-enabled" in self._settings:
            self._settings["cluster-port"] = str(self.bus_port)
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[str] | None = None

    def url(self, namespace: str = "tests", more: str = "", credentials: str = "") -> str:
        return f"redis://{credentials}{self.host}/0?namespace={namespace}{more}"

    def start(self) -> None:
        """Return once it answers, having read again what is on its disk."""
        words = []
        for name, value in self._settings.items():
            words += [f"--{name}", *(value.split() or [""])]
        process = subprocess.Popen(
            [REDIS, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        with self._log.open("a") as log:
            for line in process.stdout:
                log.write(line)
                if "Ready to accept connections" in line:
                    break
            else:
                process.wait()
                process.stdout.close()
                raise AssertionError(f"{REDIS} ended: {self._log.read_text()[-2000:]}")
        threading.Thread(target=self._drain, args=(process,), daemon=True).start()
        self._process = process

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it stand still where it is; connections stay, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text()

    def _drain(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with self._log.open("a") as log, process.stdout:
            log.writelines(process.stdout)


@contextmanager
def redis_process(folder: Path, *, tls: bool = False, **settings: str) -> Iterator[RedisProcess]:
    """A server that has been started; killed at the end."""
    server = RedisProcess(folder, tls=tls, **settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
