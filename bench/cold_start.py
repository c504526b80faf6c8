"""Seconds from `fedfleet --help` to its end; target: at most 0.5 (median of 7, warm files)."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from record import record

TARGET_S = 0.5
command = [str(Path(sys.executable).parent / "fedfleet"), "--help"]
times = []
for _ in range(8):
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    times.append(time.perf_counter() - start)
median_s = statistics.median(times[1:])
record("cold_start", median_s <= TARGET_S, median_s=round(median_s, 3), target_s=TARGET_S)
