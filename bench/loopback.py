"""Bytes over the loopback interface, as the operating system counts them.

The count is the machine's. A measurement that starts in a network of its own (a fresh network
namespace, whose loopback nobody else uses) counts its own bytes alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COUNTERS = Path("/proc/self/net/dev")
LOOPBACK = "lo"
# The second is for users who are not root; a machine may allow neither.
_NAMESPACES = (("unshare", "--net"), ("unshare", "--net", "--map-root-user"))
_LOOPBACK_UP = ("sh", "-c", 'ip link set lo up && exec "$0" "$@"')


def received_bytes() -> int:
    """Bytes that came in over loopback since it is up: headers and acknowledgements included."""
    return int(_interfaces()[LOOPBACK].split()[0])


def is_private() -> bool:
    """Whether this process is in a network of its own: one that has loopback and nothing else."""
    return set(_interfaces()) == {LOOPBACK}


def run_privately(arguments: Sequence[str]) -> int:
    """Run a Python script in a network of its own, or in this one where that is not allowed."""
    for namespace in (*_NAMESPACES, ()):
        prefix = (*namespace, *_LOOPBACK_UP) if namespace else ()
        if not prefix or _works(prefix):
            return subprocess.run([*prefix, sys.executable, *arguments], check=False).returncode
    raise AssertionError("the last way needs nothing")


def _works(prefix: Sequence[str]) -> bool:
    try:
        trial = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return trial.returncode == 0


def _interfaces() -> dict[str, str]:
    lines = COUNTERS.read_text().splitlines()[2:]
    return {name.strip(): counts for name, _, counts in (line.partition(":") for line in lines)}
