"""Virtual environments of other systems, from the package registry, each in build/peers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / "build" / "peers"


def install(name: str) -> str:
    """Make a system's environment, once; returns why it could not be made, or nothing.

    Args:
        name: of its folder here, which holds requirements.txt, and of its environment.
    """
    folder = ENVIRONMENTS / name
    ready = folder / ".ready"
    requirements = HERE / name / "requirements.txt"
    wanted = requirements.read_text()
    if ready.exists() and ready.read_text() == wanted:
        return ""
    python = command(name, "python")
    for arguments in (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (python, "-m", "pip", "install", "--quiet", "--requirement", str(requirements)),
    ):
        made = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            return (made.stderr.strip().splitlines() or ["it did not say why"])[-1]
    ready.write_text(wanted)
    return ""


def command(name: str, program: str) -> str:
    """The path of a program in a system's environment."""
    return str(ENVIRONMENTS / name / "bin" / program)
