"""Processes that share a store with a test and do what the lines say that they are asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from fedfleet.store.protocols import Store


@contextmanager
def child(script: str | None, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has opened the store and says so; killed at the end."""
    assert script is not None
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(script)), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        try:
            assert next_line(process) == "ready"
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def stop(process: subprocess.Popen[str], store: Store) -> None:
    """Stop a process where it keeps nobody from writing; ``send_signal(SIGCONT)`` wakes it up."""
    with ThreadPoolExecutor(1) as pool:
        while True:
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            writing = pool.submit(store.access.forget_certificates, 0.0)
            if wait([writing], timeout=0.3).done and writing.exception() is None:
                return
            process.send_signal(signal.SIGCONT)  # it was in the middle of a transaction
            wait([writing])
