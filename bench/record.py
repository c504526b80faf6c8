"""Prints one measurement as one JSON line, with the machine and the commit it is of."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commit() -> str:
    """The commit of the checkout; marked when files differ from it."""

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def record(name: str, holds: bool | None, **figures: object) -> None:
    """Print a line.

    Args:
        holds: whether the stated target was met; None where there is none, or where it could not
            be told.
    """
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
    }
    line = {"bench": name, "holds": holds, **figures, "machine": machine, "commit": commit()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
