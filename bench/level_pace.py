"""Virtual seconds to an accuracy on a fleet of 40 % Pi 3, 40 % Pi 4 and 20 % Jetson Nano: levels
assigned by measurement against one model for all. CIFAR-10, simulated (`fedfleet simulate
--devices pis-and-jetsons`), 20 workers with like shares, all in each round.

With one model a round lasts as long as the slowest device takes for it. With levels each trains the
widest that it manages in the target time, a little more than a Jetson takes for the whole model;
times are counted from each level's own operations (docs/devices.md). The accuracy is the whole
model's on the test split, looked at every other round. Target: at least twice as fast to 45 %.

The records of both runs are kept in build/level_pace, and their report (`fedfleet report`) with
figures: build/level_pace/report.html. Needs the data set, as levels.py; ``--digits`` takes digits
instead, to 90 %, in a minute.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from record import ROOT, record
from simulating import data_dir

TARGET_RATIO = 2.0
FLEET = "pis-and-jetsons"
KEPT = ROOT / "build" / "level_pace"
RECIPE = """
name = "{name}"
seed = 1
[model]
architecture = "cnn"
width = 0.5
norm = "group"
groups = 8
[data]
dataset = "cifar10"
samples = 10000
partition = "iid"
workers = 20
[training]
epochs = 1
batch_size = 10
lr = 0.01
momentum = 0.9
clip_norm = 5.0
validation_fraction = 0.0
threads = 1
[rounds]
rounds = {rounds}
cohort = 20
[evaluation]
every = 2
{algorithm}
"""
ONE_SIZE = '[algorithm]\nname = "fedavg"\n'
LEVELS = """[algorithm]
name = "heterofl"
[levels]
assignment = "measured"
target_s = 0.25
"""
DIGITS = """
name = "{name}"
seed = 1
[model]
architecture = "cnn"
norm = "group"
groups = 8
[data]
dataset = "digits"
partition = "iid"
workers = 20
[training]
epochs = 2
batch_size = 8
lr = 0.02
momentum = 0.9
clip_norm = 1.0
threads = 1
[rounds]
rounds = {rounds}
cohort = 20
{algorithm}
"""


@dataclass(frozen=True)
class Setting:
    """A recipe, how many rounds each run has, and the accuracy that is waited for."""

    recipe: str
    accuracy: float
    rounds: dict[str, int]
    levels: str


CIFAR = Setting(RECIPE, 0.45, {"one-size": 16, "levels": 40}, LEVELS)
QUICK = Setting(DIGITS, 0.9, {"one-size": 20, "levels": 40}, LEVELS.replace("0.25", "0.04"))


def simulate(setting: Setting, name: str, folder: Path) -> list[tuple[float, float]]:
    """Virtual seconds and accuracy of each evaluation; the record stays in the folder."""
    algorithm = setting.levels if name == "levels" else ONE_SIZE
    text = setting.recipe.format(name=name, rounds=setting.rounds[name], algorithm=algorithm)
    recipe = folder / f"{name}.toml"
    recipe.write_text(text)
    out = fedfleet(
        "simulate",
        str(recipe),
        "--devices",
        FLEET,
        "--data-dir",
        str(data_dir()),
        "--out",
        str(folder / name),
        "--json",
    )
    rounds = json.loads(out)["round_results"]
    return [
        (one["virtual_s"], one["evaluation"]["accuracy"]) for one in rounds if one["evaluation"]
    ]


def fedfleet(*arguments: str) -> str:
    """Run a command as a user would; returns what it printed."""
    command = [str(Path(sys.executable).parent / "fedfleet"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"fedfleet {arguments[0]} failed: {ran.stderr[-1000:]}")
    return ran.stdout


def reached(curve: list[tuple[float, float]], accuracy: float) -> float:
    """The first moment at an accuracy; infinite if it was not reached."""
    return next((at_s for at_s, found in curve if found >= accuracy), float("inf"))


def main(setting: Setting) -> None:
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    curves = {name: simulate(setting, name, KEPT) for name in setting.rounds}
    records = [str(KEPT / name) for name in curves]
    page = ["--out", str(KEPT / "report.html"), "--png", str(KEPT / "figures")]
    fedfleet("report", *records, *page, "--target", str(setting.accuracy))
    times = {name: reached(curve, setting.accuracy) for name, curve in curves.items()}
    ratio = times["one-size"] / times["levels"]
    is_reached = max(times.values()) < float("inf")
    record(
        "level_pace",
        is_reached and ratio >= TARGET_RATIO,
        ratio=round(ratio, 2) if is_reached else None,
        target_ratio=TARGET_RATIO,
        accuracy=setting.accuracy,
        virtual_s={name: round(at_s, 2) for name, at_s in times.items() if at_s < float("inf")},
        round_s={
            name: round(curve[-1][0] / setting.rounds[name], 3) for name, curve in curves.items()
        },
        last_accuracy={name: round(curve[-1][1], 4) for name, curve in curves.items()},
        report=str((KEPT / "report.html").relative_to(ROOT)),
    )


if __name__ == "__main__":
    if "--digits" in sys.argv:
        main(QUICK)
    elif (data_dir() / "cifar10").exists():
        main(CIFAR)
    else:
        record("level_pace", None, reason=f"no cifar10 folder in {data_dir()}")
