"""Peak memory of `fedfleet simulate` with 10,000 workers against 100, with 100 per round.

Target: at most 1.3 times as much, plus the partition index. In 60 rounds nearly half of the 10,000
take part, and each that did keeps a vector as large as the model (SCAFFOLD's control variate, the
codec's residual).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from record import record

from fedfleet.data.shard import Shards
from fedfleet.rounds.recipe import parse_recipe

FEW, MANY = 100, 10_000
TARGET_RATIO = 1.3
RECIPE = """
name = "simulator-memory"
seed = 1
[model]
architecture = "mlp"
hidden = [256]
[data]
dataset = "synthetic"
samples = 100000
features = 256
partition = "iid"
workers = {workers}
[training]
batch_size = 0
lr = 0.1
threads = 1
[algorithm]
name = "scaffold"
[rounds]
rounds = 60
cohort = 100
[wire]
uplink = "topk:0.1|int8"
"""


def peak_mb(workers: int) -> float:
    """Of a simulation in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(RECIPE.format(workers=workers))
        command = (str(Path(sys.executable).parent / "fedfleet"), "simulate", str(recipe))
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the simulation of {workers} workers ended with {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_maxrss * unit / 1e6


def index_mb(workers: int) -> float:
    """Of the partition: the rows of each worker, and the array objects that hold them."""
    recipe = parse_recipe(RECIPE.format(workers=workers))
    indexes = Shards(recipe.data, seed=recipe.seed, data_dir=None).indexes
    return sum(index.nbytes + sys.getsizeof(index) for index in indexes) / 1e6


few_mb, many_mb = peak_mb(FEW), peak_mb(MANY)
partition_mb = index_mb(MANY)
ratio = (many_mb - partition_mb) / few_mb
record(
    "simulator_memory",
    ratio <= TARGET_RATIO,
    ratio=round(ratio, 3),
    target_ratio=TARGET_RATIO,
    peak_mb={FEW: round(few_mb, 1), MANY: round(many_mb, 1)},
    partition_mb=round(partition_mb, 1),
)
