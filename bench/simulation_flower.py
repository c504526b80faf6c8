"""Seconds from command to result: CIFAR-10 `cnn` in two processes, ours against Flower's engine.

100 workers, 10 per round, 500 images each, one epoch, batch 32, 15 rounds; both sides evaluate the
last version. Target: 1.7 times faster. Ours is `fedfleet simulate --engine processes` with two,
measured before and after Flower. About three minutes on two cores. Needs the data set
(FEDFLEET_DATA_DIR, default ../shared/data beside the checkout) and Flower, which is installed from
the package registry; without them nothing is compared.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from peers.environment import install
from peers.flower_simulation import simulation as flower
from peers.plugins import install_plugins
from peers.work import write_work
from record import record
from simulating import data_dir, run

from fedfleet.rounds.recipe import parse_recipe

TARGET_RATIO = 1.7
RECIPE = """
name = "simulation"
seed = 1
[model]
architecture = "cnn"
[data]
dataset = "{dataset}"
partition = "iid"
workers = 100
[training]
epochs = 1
batch_size = 32
lr = 0.05
validation_fraction = 0.0
[rounds]
rounds = 15
cohort = 10
[evaluation]
every = 15
"""


def main() -> None:
    if not (data_dir() / "cifar10").exists():
        record("simulation_flower", None, not_compared=f"no cifar10 folder in {data_dir()}")
        return
    missing = install(flower.NAME)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work, own, recipe = folder / "work", folder / "flower", folder / "recipe.toml"
        work.mkdir()
        own.mkdir()
        install_plugins(folder)
        write_work(parse_recipe(RECIPE.format(dataset="cifar10")), work, data_dir())
        recipe.write_text(RECIPE.format(dataset="prepared"))
        options = ("--engine", "processes", "--processes", "2", "--data-dir", str(work))
        ours = [run(recipe, options)]
        if missing:
            seconds = round(ours[0].seconds, 2)
            record("simulation_flower", None, seconds=seconds, not_compared=f"no Flower: {missing}")
            return
        peer = flower.simulate(work, own)
        ours.append(run(recipe, options))
    ours_s = statistics.mean(one.seconds for one in ours)
    ratio = peer.seconds / ours_s
    record(
        "simulation_flower",
        ratio >= TARGET_RATIO,
        seconds=round(ours_s, 2),
        runs_s=[round(one.seconds, 2) for one in ours],
        accuracy=round(ours[0].accuracy, 4),
        flower_s=round(peer.seconds, 2),
        flower_round_s=round(statistics.median(peer.rounds_s), 3),
        flower_accuracy=round(peer.accuracy, 4),
        ratio=round(ratio, 2),
        target_ratio=TARGET_RATIO,
    )


if __name__ == "__main__":
    main()
