"""Flower from the package registry, deployed on this machine as its own documentation does it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.environment import ENVIRONMENTS, command
from processes import await_port, free_port, process

HERE = Path(__file__).parent
NAME = "flower"
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
        arguments = [command(NAME, "flwr"), "run", str(HERE / "app"), "bench", "--stream"]
        run = subprocess.run(
            [*arguments, "--run-config", " ".join(settings)],
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
        "PATH": f"{ENVIRONMENTS / NAME / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    with ExitStack() as stack:

        def start(name: str, log: str, *arguments: str) -> None:
            started = (command(NAME, name), "--insecure", *arguments)
            stack.enter_context(process(started, folder / log, **environ))

        start("flower-superlink", "superlink.log", "--port", str(port))
        await_port(port, START_S)
        for i in range(workers):
            arguments = ("--superlink", f"127.0.0.1:{port}", "--port", str(free_port()))
            start("flower-supernode", f"supernode{i}.log", *arguments)
        yield environ
