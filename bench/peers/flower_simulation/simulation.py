"""Flower's simulation engine from the package registry, run as its own documentation does it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.environment import ENVIRONMENTS, command
from processes import await_port, free_port, process

NAME = "flower_simulation"
HERE = Path(__file__).parent
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
class Simulated:
    """A finished run.

    Args:
        seconds: from the command to its end.
        rounds_s: seconds of each round but the first.
        accuracy: of the last version on the test split.
    """

    seconds: float
    rounds_s: list[float]
    accuracy: float


def simulate(work: Path, folder: Path) -> Simulated:
    """Run a recipe's work with one core for each client, so on all cores.

    Args:
        work: what ``write_work`` wrote.
        folder: an empty one, for everything that Flower writes.

    Raises:
        SystemExit: a round failed, or not every worker of its cohort replied.
    """
    settings = json.loads((work / "work.json").read_text())
    notes = folder / "notes.json"
    with _superlink(folder) as environ:
        arguments = (
            *(command(NAME, "flwr"), "run", str(HERE / "app"), "bench", "--stream"),
            *("--run-config", f'work="{work}" notes="{notes}"'),
            "--federation-config",
            f"num-supernodes={settings['workers']} client-resources-num-cpus=1",
        )
        start_s = time.monotonic()
        run = subprocess.run(
            arguments,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        seconds = time.monotonic() - start_s
    if not notes.exists():
        raise SystemExit(f"Flower's run did not end well: {(run.stdout + run.stderr)[-2000:]}")
    result = json.loads(notes.read_text())
    if result["replies"] != [settings["cohort"]] * settings["rounds"]:
        raise SystemExit(f"Flower's rounds had {result['replies']} replies")
    ends_s = result["aggregated_at_s"]
    rounds_s = [end - start for start, end in itertools.pairwise(ends_s)]
    return Simulated(seconds, rounds_s, result["accuracy"])


@contextmanager
def _superlink(folder: Path) -> Iterator[dict[str, str]]:
    """A SuperLink for simulations, which is not part of the time; yields `flwr`'s environment."""
    port = free_port()
    (folder / "config.toml").write_text(CONNECTION.format(port=port))
    environ = {
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        # They start each other by name.
        "PATH": f"{ENVIRONMENTS / NAME / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    arguments = (
        *(command(NAME, "flower-superlink"), "--insecure", "--simulation"),
        "--disable-runtime-dependency-installation",  # the application has none
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--control-api-address", f"127.0.0.1:{free_port()}"),
    )
    with process(arguments, folder / "superlink.log", **environ):
        await_port(port, START_S)
        yield environ
