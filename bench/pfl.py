"""A round of pfl-research's CIFAR-10 benchmark: ours against its simulator.

Its `simple_cnn` (1.63 M parameters), 1000 users of 50 images, 50 per round, batch 10, one epoch,
learning rate 0.1; one process and one thread on each side, round by round in turns. Targets: not
slower in float32 with channels_last (within 2 %; that of the default memory format stands beside
it), 1.2 times faster with bfloat16 and channels_last at an accuracy at most 0.5 point lower after
25 rounds of training (mean of the last five evaluations). Compared is processor time. About seven
minutes on two cores. Needs the data set (FEDFLEET_DATA_DIR, default ../shared/data beside the
checkout) and pfl, which is installed from the package registry; without them nothing is compared.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from peers.environment import HERE, command, install
from peers.plugins import install_plugins
from peers.work import write_work
from record import record
from simulating import data_dir, run
from turns import Rounds, Turn, take_turns, times_faster

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.training.allocator import keep_freed_memory

NAME = "pfl"
APP = HERE / NAME / "app"
ROUNDS = 9
ACCURACY_ROUNDS = 25
LAST = 5
TARGET_FLOAT32 = 0.98
TARGET_BFLOAT16 = 1.2
TARGET_POINTS = 0.5
PRECISIONS = {
    "contiguous": "channels_last = false",
    "float32": "",
    "bfloat16": 'amp = "bfloat16"',
}
RECIPE = """
name = "pfl"
seed = 1
[model]
architecture = "simple_cnn"
[data]
dataset = "{dataset}"
partition = "iid"
workers = 1000
[training]
epochs = 1
batch_size = 10
lr = 0.1
validation_fraction = 0.0
threads = 1
{precision}
[rounds]
rounds = {rounds}
cohort = 50
[evaluation]
every = {every}
"""


def main() -> None:
    if not (data_dir() / "cifar10").exists():
        record("pfl_round", None, not_compared=f"no cifar10 folder in {data_dir()}")
        return
    missing = install(NAME)
    if missing:
        record("pfl_round", None, not_compared=f"no pfl: {missing}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work = folder / "work"
        work.mkdir()
        install_plugins(folder)
        write_work(parse_recipe(text("cifar10", "", ROUNDS + 1)), work, data_dir())
        found = take_turns(_contestants(folder, work), ROUNDS, os.environ)
        _report(found, _accuracy(work, "float32"), _accuracy(work, "bfloat16"))


def text(dataset: str, precision: str, rounds: int, every: int = 1) -> str:
    return RECIPE.format(dataset=dataset, precision=precision, rounds=rounds, every=every)


def _contestants(folder: Path, work: Path) -> dict[str, list[str]]:
    contestants = {"pfl": [command(NAME, "python"), str(APP / "train.py"), str(work)]}
    for name, precision in PRECISIONS.items():
        recipe = folder / f"{name}.toml"
        # Beyond the last round by one, which is evaluated.
        recipe.write_text(text("prepared", precision, ROUNDS + 1, every=1_000_000))
        contestants[name] = [sys.executable, __file__, str(recipe), str(work)]
    return contestants


def contest(recipe: Path, work: Path) -> None:
    """Our side of the turns."""
    keep_freed_memory()  # as `fedfleet simulate` does
    torch.set_num_threads(1)
    turn = Turn()
    simulate(parse_recipe(recipe.read_text()), work, lambda _: turn.over())


def _accuracy(work: Path, precision: str) -> float:
    """The mean of a longer run's last evaluations, in per cent."""
    recipe = work / "accuracy.toml"
    recipe.write_text(text("prepared", PRECISIONS[precision], ACCURACY_ROUNDS))
    ran = run(recipe, ("--engine", "processes", "--data-dir", str(work)))
    return 100 * statistics.mean(ran.accuracies[-LAST:])


def _report(found: dict[str, Rounds], float32: float, bfloat16: float) -> None:
    ratio = times_faster(found["float32"], found["pfl"])
    record(
        "pfl_round_float32",
        ratio >= TARGET_FLOAT32,
        ours=found["float32"].figures,
        pfl=found["pfl"].figures,
        ratio=round(ratio, 3),
        target_ratio=TARGET_FLOAT32,
        contiguous=found["contiguous"].figures,
        contiguous_ratio=round(times_faster(found["contiguous"], found["pfl"]), 3),
    )
    ratio = times_faster(found["bfloat16"], found["pfl"])
    record(
        "pfl_round_bfloat16",
        ratio >= TARGET_BFLOAT16 and float32 - bfloat16 <= TARGET_POINTS,
        ours=found["bfloat16"].figures,
        pfl=found["pfl"].figures,
        ratio=round(ratio, 3),
        target_ratio=TARGET_BFLOAT16,
        accuracy_float32=round(float32, 2),
        accuracy_bfloat16=round(bfloat16, 2),
        target_points=TARGET_POINTS,
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        contest(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
