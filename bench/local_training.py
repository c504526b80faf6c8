"""An epoch of local training in bfloat16 with channels_last against float32 in torch's default
memory format: CIFAR-10, `cnn`.

500 images, batch 32, one thread, epochs of both in turns; compared is processor time. Targets: 1.6
times faster, and an accuracy at most 0.5 point lower after 25 rounds with 100 workers, 10 per round
(mean of the last five evaluations). Beside them float32 in channels_last, our default; and the
epoch as a bare PyTorch loop in float32, which says what our loop costs beyond the arithmetic. About
three minutes on two cores. Needs the data set (FEDFLEET_DATA_DIR, default ../shared/data beside the
checkout).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from record import record
from simulating import data_dir, run
from torch.nn import functional as F

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.data.shard import Examples, Shards
from fedfleet.models.catalog import build
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.training.local import LocalTrainer, TrainTask
from fedfleet.training.state import initial_state

EPOCHS = 15
ROUNDS = 25
LAST = 5
LR = 0.05
BATCH = 32
TARGET_RATIO = 1.6
TARGET_POINTS = 0.5
PRECISIONS = {
    "float32": "channels_last = false",
    "float32_channels_last": "",
    "bfloat16": 'amp = "bfloat16"',
}
RECIPE = """
name = "local-training"
seed = 1
[model]
architecture = "cnn"
[data]
dataset = "cifar10"
partition = "iid"
workers = 100
[training]
epochs = 1
batch_size = {batch}
lr = {lr}
validation_fraction = 0.0
threads = 1
{precision}
[rounds]
rounds = {rounds}
cohort = 10
"""


def main() -> None:
    if not (data_dir() / "cifar10").exists():
        record("local_training", None, not_compared=f"no cifar10 folder in {data_dir()}")
        return
    torch.set_num_threads(1)
    recipes = {name: parse_recipe(text(name)) for name in PRECISIONS}
    shards = Shards(recipes["float32"].data, seed=1, data_dir=data_dir())
    examples = shards.load("train", 0)
    epochs = {name: our_epoch(recipe, examples) for name, recipe in recipes.items()}
    epochs["bare"] = bare_epoch(recipes["float32"], examples)
    taken_s = in_turns(epochs)
    report(taken_s, {name: accuracy(name) for name in ("float32", "bfloat16")})


def text(precision: str) -> str:
    settings = PRECISIONS[precision]
    return RECIPE.format(precision=settings, rounds=ROUNDS, lr=LR, batch=BATCH)


def our_epoch(recipe: Recipe, examples: Examples) -> Callable[[], object]:
    card = card_of(recipe)
    trainer = LocalTrainer(card, recipe.training, recipe.evaluation)
    task = TrainTask(
        algorithm=make_algorithm(recipe.algorithm),
        received=initial_state(card, 1),
        examples=examples,
        seed=1,
        split_seed=1,
        round=1,
        rounds=1,
        memory={},
    )
    return lambda: trainer.train(task)


def bare_epoch(recipe: Recipe, examples: Examples) -> Callable[[], object]:
    """What one would write by hand, with images that are normalised already."""
    card = card_of(recipe)
    module = build(card)
    start = [param.detach().clone() for param in module.parameters()]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (card.inputs.mean, card.inputs.std))
    images = torch.from_numpy(examples.images).float().div_(255).sub_(mean).div_(std)
    labels = torch.from_numpy(examples.labels)

    def epoch() -> None:
        with torch.no_grad():
            for param, value in zip(module.parameters(), start, strict=True):
                param.copy_(value)
        optimizer = torch.optim.SGD(module.parameters(), lr=LR)
        for rows in torch.split(torch.randperm(len(labels)), BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images[rows]), labels[rows])
            torch.autograd.backward(loss)
            optimizer.step()

    return epoch


def in_turns(epochs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Processor seconds of each epoch but the first, which is for getting warm."""
    taken_s: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(EPOCHS + 1):
        for name, epoch in epochs.items():
            start_s = time.process_time()
            epoch()
            if number:
                taken_s[name].append(time.process_time() - start_s)
    return taken_s


def accuracy(precision: str) -> float:
    """The mean of a federated run's last evaluations, in per cent."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(text(precision))
        ran = run(recipe, ("--engine", "processes", "--data-dir", str(data_dir())))
    return 100 * statistics.mean(ran.accuracies[-LAST:])


def report(taken_s: dict[str, list[float]], accuracies: dict[str, float]) -> None:
    def ratio(slow: str, fast: str) -> float:
        """Of epochs that followed each other, the median."""
        pairs = zip(taken_s[slow], taken_s[fast], strict=True)
        return statistics.median(a / b for a, b in pairs)

    times = ratio("float32", "bfloat16")
    lost = accuracies["float32"] - accuracies["bfloat16"]
    record(
        "local_training",
        times >= TARGET_RATIO and lost <= TARGET_POINTS,
        **{f"{name}_cpu_s": round(statistics.median(all_s), 4) for name, all_s in taken_s.items()},
        ratio=round(times, 3),
        target_ratio=TARGET_RATIO,
        ratio_channels_last=round(ratio("float32", "float32_channels_last"), 3),
        accuracy_float32=round(accuracies["float32"], 2),
        accuracy_bfloat16=round(accuracies["bfloat16"], 2),
        target_points=TARGET_POINTS,
        of_bare_loop=round(ratio("float32", "bare"), 3),
    )


if __name__ == "__main__":
    main()
