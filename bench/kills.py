"""A run of ten rounds whose coordinator is killed thirty times: nothing lost, nothing done twice.

    python bench/kills.py --seeds 30
    python bench/kills.py --seed 7 --store redis --kills 30

Each seed makes a recipe and the points at which the coordinator dies; without arguments one seed is
run on both stores. A line per seed and store says where the coordinator died, and what did not
hold. On Redis the server is killed too. The harness is in ``tests/durability``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from record import record

KILLED_RUN = Path(__file__).parents[1] / "tests" / "durability" / "killed_run.py"
STORES = ("sqlite", "redis")
POINTS: Counter[str] = Counter()  # of all runs


def run_seed(seed: int, stores: list[str], kills: int) -> list[bool]:
    """Print a line for each store; whether all held."""
    options = ["--seed", str(seed), "--kills", str(kills), "--store", *stores]
    command = [sys.executable, str(KILLED_RUN), *options]
    held = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for told in running.stdout:
            line = json.loads(told)
            held.append(bool(line.pop("holds")))
            record("kills", held[-1], **line)
            POINTS.update(line["points"])
    if len(held) < len(stores):
        broken = [f"the harness ended with {running.returncode}"]
        record("kills", False, seed=seed, broken=broken)
        held.append(False)
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=int, default=1, help="the first so many seeds")
    which.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--store", choices=STORES, nargs="+", default=list(STORES))
    parser.add_argument("--kills", type=int, default=30)
    given = parser.parse_args()
    stores = list(given.store)
    missing = "redis" in stores and shutil.which("redis-server") is None
    if missing:
        stores.remove("redis")
    seeds = range(given.seeds) if given.seed is None else [given.seed]
    held = [one for seed in seeds for one in run_seed(seed, stores, given.kills)]
    record(
        "kills_in_all",
        all(held) and bool(held),
        runs=len(held),
        held=sum(held),
        kills=sum(POINTS.values()),
        points=dict(sorted(POINTS.items())),
        not_run="redis: no redis-server here" if missing else "",
    )


if __name__ == "__main__":
    main()
