"""Seconds from command to result with small models: ours against Flower's simulation engine.

Softmax regression and a perceptron with 200 hidden units on 50,000 examples of 60 features in 10
classes: 1000 workers, 10 per round, 50 examples each, batch 10, 100 rounds. Target: 10 times
faster. Ours is `fedfleet simulate --batch-workers 10`, measured before and after Flower; beside it
the same without that option. About four minutes on two cores. Flower is installed from the package
registry; without one nothing is compared.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from peers.environment import install
from peers.flower_simulation import simulation as flower
from peers.work import write_work
from record import record
from simulating import Ran, run

from fedfleet.rounds.recipe import parse_recipe

TARGET_RATIO = 10.0
COHORT = 10
MODELS = {"softmax": "[]", "perceptron": "[200]"}
RECIPE = """
name = "{name}"
seed = 1
[model]
architecture = "mlp"
hidden = {hidden}
[data]
dataset = "synthetic"
samples = 50000
features = 60
classes = 10
partition = "iid"
workers = 1000
[training]
epochs = 1
batch_size = 10
lr = 0.05
validation_fraction = 0.0
threads = 1
[rounds]
rounds = 100
cohort = {cohort}
[evaluation]
every = 100
"""


def measure(name: str, missing: str) -> None:
    text = RECIPE.format(name=name, hidden=MODELS[name], cohort=COHORT)
    batched = ("--batch-workers", str(COHORT))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = folder / "recipe.toml"
        recipe.write_text(text)
        ours = [run(recipe, batched) for _ in range(2)]
        alone = run(recipe, ())
        peer = None
        if not missing:
            work, own = folder / "work", folder / "flower"
            work.mkdir()
            own.mkdir()
            write_work(parse_recipe(text), work, None)
            peer = flower.simulate(work, own)
        ours += [run(recipe, batched) for _ in range(2)]
    report(name, ours, alone, peer, missing)


def report(
    name: str, ours: list[Ran], alone: Ran, peer: flower.Simulated | None, missing: str
) -> None:
    """Print the line; without the peer nothing is said to hold."""
    ours_s = statistics.median(one.seconds for one in ours)
    figures = {
        "seconds": round(ours_s, 2),
        "runs_s": [round(one.seconds, 2) for one in ours],
        "one_by_one_s": round(alone.seconds, 2),
        "accuracy": round(ours[0].accuracy, 4),
        "one_by_one_accuracy": round(alone.accuracy, 4),
    }
    line = f"small_models_{name}"
    if peer is None:
        record(line, None, **figures, not_compared=f"no Flower: {missing}")
        return
    ratio = peer.seconds / ours_s
    record(
        line,
        ratio >= TARGET_RATIO,
        **figures,
        flower_s=round(peer.seconds, 2),
        flower_round_s=round(statistics.median(peer.rounds_s), 3),
        flower_accuracy=round(peer.accuracy, 4),
        ratio=round(ratio, 2),
        target_ratio=TARGET_RATIO,
    )


if __name__ == "__main__":
    reason = install(flower.NAME)
    for model in MODELS:
        measure(model, reason)
