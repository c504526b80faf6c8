"""Flower from the package registry, deployed on this machine as its own documentation does it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import free_port, process

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
ENVIRONMENT = HERE.parent.parent.parent / "build" / "peers" / "flower"
ROLES = {
    "flwr-serverapp": "server_app",
    "flwr-clientapp": "client_app",
    "flower-superlink": "superlink",
    "flower-supernode": "supernode",
}
START_S = 60.0
RUN_S = 900
CONNECTION = """
[superlink]
default = "bench"
[superlink.bench]
address = "127.0.0.1:{port}"
insecure = true
"""


@dataclass(frozen=True)
class Rounds:
    """When the aggregate of each round was ready, and loopback's count of bytes at that moment."""

    aggregated_at_s: list[float]
    received_bytes: list[int]


def install() -> str:
    """Make Flower's environment, once; returns why it could not be made, or nothing."""
    ready = ENVIRONMENT / ".ready"
    wanted = REQUIREMENTS.read_text()
    if ready.exists() and ready.read_text() == wanted:
        return ""
    python = str(ENVIRONMENT / "bin" / "python")
    for command in (
        (sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)),
        (python, "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)),
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            return (made.stderr.strip().splitlines() or ["it did not say why"])[-1]
    ready.write_text(wanted)
    return ""


def exchange(
    tensors: Sequence[tuple[str, tuple[int, ...], str]], folder: Path, rounds: int, workers: int
) -> Rounds:
    """Exchange a state's tensors without training.

    Args:
        tensors: name, shape and dtype of each.
        folder: an empty one, for everything that Flower writes.

    Raises:
        SystemExit: a round failed, or not every worker replied.
    """
    (folder / "tensors.json").write_text(json.dumps(tensors))
    notes = folder / "notes.json"
    settings = (
        f'tensors="{folder / "tensors.json"}"',
        f'notes="{notes}"',
        f"rounds={rounds}",
        f"workers={workers}",
    )
    with _deployed(folder, workers) as environ:
        command = [_command("flwr"), "run", str(HERE / "app"), "bench", "--stream"]
        run = subprocess.run(
            [*command, "--run-config", " ".join(settings)],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
    if not notes.exists():
        raise SystemExit(f"Flower's run did not end well: {(run.stdout + run.stderr)[-2000:]}")
    result = json.loads(notes.read_text())
    if result["replies"] != [workers] * rounds:
        raise SystemExit(f"Flower's rounds had {result['replies']} replies, wanted {workers}")
    return Rounds(result["aggregated_at_s"], result["received_bytes"])


@contextmanager
def _deployed(folder: Path, workers: int) -> Iterator[dict[str, str]]:
    """A SuperLink and SuperNodes, all defaults but the ports; yields the environment for `flwr`."""
    port = free_port()
    (folder / "config.toml").write_text(CONNECTION.format(port=port))
    environ = {
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        # They start each other by name.
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    with ExitStack() as stack:

        def start(name: str, log: str, *arguments: str) -> None:
            command = (_command(name), "--insecure", *arguments)
            stack.enter_context(process(command, folder / log, **environ))

        start("flower-superlink", "superlink.log", "--port", str(port))
        _await(port)
        for i in range(workers):
            arguments = ("--superlink", f"127.0.0.1:{port}", "--port", str(free_port()))
            start("flower-supernode", f"supernode{i}.log", *arguments)
        yield environ


def _command(name: str) -> str:
    return str(ENVIRONMENT / "bin" / name)


def _await(port: int) -> None:
    """Wait until somebody listens."""
    until_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until_s:
                raise SystemExit(f"nobody listens on port {port} after {START_S:g} s") from None
            time.sleep(0.1)
        else:
            return
