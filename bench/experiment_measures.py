"""Figures of an experiment beside accuracy, from what a run left on the coordinator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import numpy as np

from fedfleet.algorithms.base import Memory
from fedfleet.algorithms.grouping import balance
from fedfleet.data.shard import Shards
from fedfleet.rounds.recipe import Recipe


def gaussian_weights(recipe: Recipe, memory: Memory, data_dir: Path) -> Mapping[str, float]:
    """FedGW's weights of the noisy workers, as a share of a clean one's."""
    workers, noisy = recipe.data.workers or 0, recipe.data.noisy_workers or 0
    weights = [float(memory.get(f"fedgw.worker-{i}", 1.0)) for i in range(workers)]
    clean = mean(weights[: workers - noisy])
    return {
        f"weight of noisy worker {i + 1}": weight / clean
        for i, weight in enumerate(weights[workers - noisy :])
    }


def group_balance(recipe: Recipe, memory: Memory, data_dir: Path) -> Mapping[str, float]:
    """How far the labels of FedSeq's groups are from uniform: mean KL divergence in nats."""
    shards = Shards(recipe.data, seed=recipe.seed, data_dir=data_dir)
    classes, labels = len(shards.spec.classes), shards.train.labels
    counts: dict[int, list[int]] = defaultdict(lambda: [0] * classes)
    for shard, rows in enumerate(shards.indexes):
        number = memory.get(f"fedseq.group.worker-{shard}")
        if number is not None:
            held = np.bincount(labels[rows], minlength=classes)
            counts[int(number)] = [a + b for a, b in zip(counts[int(number)], held, strict=True)]
    if not counts:
        return {}
    return {"KL to uniform": mean(balance(np.array(c) / sum(c)) for c in counts.values())}
