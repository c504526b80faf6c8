"""Seconds from `fedfleet simulate digits` to the end of its first round; target: at most 3.

The median of 5, files warm. A line that the command prints says that a round is over.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import record

TARGET_S = 3.0
RECIPE = Path(__file__).parent.parent / "recipes" / "digits.toml"


def seconds() -> tuple[float, float]:
    """To the first round's end: by the clock, and of processors."""
    command = (str(Path(sys.executable).parent / "fedfleet"), "simulate", str(RECIPE))
    start = time.perf_counter()
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("round 1/"):
            break
    else:
        raise SystemExit("the simulation printed no round")
    wall_s = time.perf_counter() - start
    child.kill()
    child.stdout.close()
    _, _, used = os.wait4(child.pid, 0)
    child.returncode = -9
    return wall_s, used.ru_utime + used.ru_stime


found = [seconds() for _ in range(6)][1:]
median_s = statistics.median(wall_s for wall_s, _ in found)
record(
    "simulator_start",
    median_s <= TARGET_S,
    median_s=round(median_s, 2),
    target_s=TARGET_S,
    processor_s=round(statistics.median(cpu_s for _, cpu_s in found), 2),
)
