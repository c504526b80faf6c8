"""A detector trained by a coordinator and four workers on this machine, from start to exit.

The target: recipes/shapes.toml on two cores within 15 minutes to a mean average precision of at
least 0.6 at an overlap of 0.5. With ``simulated`` as its argument the simulator trains instead,
which comes to the same model.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from record import record

TARGET_MINUTES = 15.0
TARGET_MAP50 = 0.6

how = sys.argv[1] if len(sys.argv) > 1 else "deployed"
arguments = ["simulate", "shapes"] if how == "simulated" else ["up", "--once", "--recipe", "shapes"]
start = time.perf_counter()
run = subprocess.run(
    [str(Path(sys.executable).parent / "fedfleet"), *arguments],
    capture_output=True,
    text=True,
    check=False,
)
minutes = (time.perf_counter() - start) / 60
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
rounds = re.findall(r"^round \d+/\d+ +mAP@0\.5 ([\d.]+) %", run.stdout, re.MULTILINE)
map50 = float(rounds[-1]) / 100 if rounds else float("nan")
record(
    "detection",
    run.returncode == 0 and minutes <= TARGET_MINUTES and map50 >= TARGET_MAP50,
    how=how,
    map50=map50,
    map50_by_evaluation=[float(value) / 100 for value in rounds],
    minutes=round(minutes, 2),
    processor_minutes=round((spent.ru_utime + spent.ru_stime) / 60, 2),
    exit_code=run.returncode,
    target_minutes=TARGET_MINUTES,
    target_map50=TARGET_MAP50,
)
