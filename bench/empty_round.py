"""Milliseconds per round with nothing to do: 10 parameters, 2 worker processes, loopback.

Target: median at most 50. Measured from one commit to the next on the coordinator's clock, with
everything as durable as in any run.
"""

from __future__ import annotations

import itertools
import statistics

from processes import deployed, finish
from record import record

TARGET_MS = 50.0
WARM_UP = 5
RECIPE = """
name = "empty"
[model]
architecture = "mlp"
hidden = []
[data]
dataset = "synthetic"
partition = "iid"
workers = 2
[training]
batch_size = 400
validation_fraction = 0.0
threads = 1
[rounds]
rounds = 60
cohort = 2
[evaluation]
coordinator = false
"""

with deployed(workers=2) as control:
    rounds = finish(control, RECIPE).rounds[WARM_UP:]
gaps = [b.committed_at_s - a.committed_at_s for a, b in itertools.pairwise(rounds)]
times_ms = sorted(1000 * gap for gap in gaps)
median_ms = statistics.median(times_ms)
record(
    "empty_round",
    median_ms <= TARGET_MS,
    median_ms=round(median_ms, 1),
    p90_ms=round(times_ms[int(0.9 * len(times_ms))], 1),
    rounds=len(times_ms),
    target_ms=TARGET_MS,
)
