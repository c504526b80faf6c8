"""Accuracy and bytes of compressed runs against a float32 one: CIFAR-10, simulated, three seeds.

The network is `cnn`, 20 workers hold a Dirichlet (0.5) split, 5 train in each of 40 rounds. The
accuracy of a run is the mean of its last three evaluations (rounds 36, 38, 40). Needs the data set:
FEDFLEET_DATA_DIR names a folder with `cifar10/` (default: ../shared/data beside the checkout).
Minutes per run on one core; one process per core.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from record import ROOT, record

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate

ROUNDS = 40
SEEDS = (1, 2, 3)
RECIPE = """
name = "compression"
seed = {seed}
[model]
architecture = "cnn"
[data]
dataset = "cifar10"
partition = "dirichlet"
alpha = 0.5
workers = 20
[training]
epochs = 1
batch_size = 32
lr = 0.05
momentum = 0.9
scheduler = "cosine"
clip_norm = 5.0
validation_fraction = 0.0
amp = "bfloat16"
channels_last = true
threads = 1
[rounds]
rounds = {rounds}
cohort = 5
[evaluation]
every = 2
{wire}
"""
VARIANTS = {
    "float32": "",
    "topk_up_int8_down": '[wire]\nuplink = "topk:0.01|int8"\ndownlink = "int8|deflate"\n',
    "topk_up_topk_down": '[wire]\nuplink = "topk:0.01|int8"\ndownlink = "topk:0.1|int8"\n',
    "no_error_feedback": (
        '[wire]\nuplink = "topk:0.01|int8"\ndownlink = "int8|deflate"\nerror_feedback = false\n'
    ),
}


def run_one(variant: str, seed: int) -> dict[str, Any]:
    """Simulate one run; bytes are payload bytes of all rounds."""
    text = RECIPE.format(seed=seed, rounds=ROUNDS, wire=VARIANTS[variant])
    start = time.perf_counter()
    simulation = simulate(parse_recipe(text), data_dir())
    assert simulation.outcome == "completed", simulation.reason
    accuracies = [r.evaluation.accuracy for r in simulation.rounds if r.evaluation]
    return {
        "accuracy": statistics.mean(accuracies[-3:]),
        "by_round": [round(value, 4) for value in accuracies],
        "bytes_up": sum(r.bytes_up for r in simulation.rounds),
        "bytes_down": sum(r.bytes_down for r in simulation.rounds),
        "seconds": round(time.perf_counter() - start, 1),
    }


def data_dir() -> Path:
    return Path(os.environ.get("FEDFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))


def in_a_process(job: tuple[str, int]) -> dict[str, Any]:
    """A process of its own: torch's threads and settings belong to one."""
    command = [sys.executable, __file__, *map(str, job)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def main() -> None:
    if not (data_dir() / "cifar10").exists():
        record("compression_accuracy", False, reason=f"no cifar10 folder in {data_dir()}")
        return
    jobs = [(variant, seed) for seed in SEEDS for variant in VARIANTS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(jobs, pool.map(in_a_process, jobs), strict=True))

    def mean(variant: str, what: str) -> float:
        return float(statistics.mean(found[variant, seed][what] for seed in SEEDS))

    def report(variant: str, holds: bool, **targets: float) -> None:
        record(
            f"compression_accuracy_{variant}",
            holds,
            accuracy=round(mean(variant, "accuracy"), 4),
            points_below_float32=round(lost(variant), 2),
            times_fewer_up=round(mean("float32", "bytes_up") / mean(variant, "bytes_up"), 1),
            times_fewer_down=round(mean("float32", "bytes_down") / mean(variant, "bytes_down"), 2),
            runs=[found[variant, seed] for seed in SEEDS],
            **targets,
        )

    def lost(variant: str) -> float:
        return 100 * (mean("float32", "accuracy") - mean(variant, "accuracy"))

    report("float32", True)
    for variant, down in (("topk_up_int8_down", 4.0), ("topk_up_topk_down", 10.0)):
        up_ratio = mean("float32", "bytes_up") / mean(variant, "bytes_up")
        down_ratio = mean("float32", "bytes_down") / mean(variant, "bytes_down")
        report(
            variant,
            lost(variant) <= 1.0 and up_ratio >= 100 and down_ratio >= down,
            target_points=1.0,
            target_times_up=100.0,
            target_times_down=down,
        )
    # Clearly worse: by more than the compressed run may lose at all.
    report(
        "no_error_feedback",
        lost("no_error_feedback") > lost("topk_up_int8_down") + 1.0,
        expected_points_more=1.0,
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(run_one(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
