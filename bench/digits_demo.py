"""The demo from start to exit once installed: target at most 90 s, test accuracy at least 0.95."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from record import record

TARGET_S = 90.0
TARGET_ACCURACY = 0.95
command = [str(Path(sys.executable).parent / "fedfleet"), "up", "--once", "--recipe", "digits"]
start = time.perf_counter()
run = subprocess.run(command, capture_output=True, text=True, check=False)
wall_s = time.perf_counter() - start
rounds = re.findall(r"^round \d+/\d+ +accuracy ([\d.]+) %", run.stdout, re.MULTILINE)
accuracy = float(rounds[-1]) / 100 if rounds else float("nan")
record(
    "digits_demo",
    run.returncode == 0 and wall_s <= TARGET_S and accuracy >= TARGET_ACCURACY,
    wall_s=round(wall_s, 1),
    accuracy=accuracy,
    exit_code=run.returncode,
    target_s=TARGET_S,
    target_accuracy=TARGET_ACCURACY,
)
