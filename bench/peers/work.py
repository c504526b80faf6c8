"""A recipe's training work as plain files, so that another system does the same: the same
examples in the same shards, the same initial weights, the same settings.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fedfleet.data.shard import Shards
from fedfleet.models.config import CnnOptions, MlpOptions
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state


def write_work(recipe: Recipe, folder: Path, data_dir: Path | None) -> None:
    """Write what the systems of this folder read.

    ``work.json`` holds the settings; ``SPLIT-images.npy`` uint8 (N, C, H, W) and
    ``SPLIT-labels.npy`` int64 (N,); ``shards.npz`` the rows of each worker; ``initial.npz`` the
    weights in the order of the model's state.
    """
    shards = Shards(recipe.data, seed=recipe.seed, data_dir=data_dir)
    for split, images in (("train", shards.train), ("test", shards.test)):
        everything = np.arange(len(images.labels), dtype=np.int64)
        np.save(folder / f"{split}-images.npy", images.load(everything))
        np.save(folder / f"{split}-labels.npy", images.labels)
    ends = np.cumsum([len(rows) for rows in shards.indexes])
    np.savez(folder / "shards.npz", rows=np.concatenate(shards.indexes), ends=ends)
    state = initial_state(card_of(recipe), derive(recipe.seed, "initial"))
    tensors = state.tensors()
    names = [param.name for param in state.schema.params]
    np.savez(folder / "initial.npz", *[tensors[name] for name in names])
    (folder / "work.json").write_text(json.dumps(_settings(recipe, shards)))


def _settings(recipe: Recipe, shards: Shards) -> dict[str, object]:
    options = recipe.model.options
    hidden = options.hidden if isinstance(options, (MlpOptions, CnnOptions)) else None
    training = recipe.training
    assert (training.optimizer, training.validation_fraction) == ("sgd", 0.0)
    assert (training.momentum or 0.0, training.weight_decay, training.augment) == (0.0, 0.0, "none")
    inputs = shards.spec.inputs
    return {
        "architecture": recipe.model.architecture,
        "hidden": hidden,
        "inputs": list(inputs.shape),
        "classes": len(shards.spec.classes),
        "mean": list(inputs.mean),
        "std": list(inputs.std),
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "lr": training.lr,
        "clip_norm": training.clip_norm,
        "workers": recipe.data.workers,
        "cohort": recipe.rounds.cohort,
        "rounds": recipe.rounds.rounds,
    }
