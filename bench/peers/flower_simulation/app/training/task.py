"""The work in plain PyTorch, without what a data loader would cost."""

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Work:
    """What the files say, opened once per process."""

    def __init__(self, folder: Path) -> None:
        self.settings = json.loads((folder / "work.json").read_text())
        self.folder = folder
        self.images = np.load(folder / "train-images.npy", mmap_mode="r")
        self.labels = np.load(folder / "train-labels.npy")
        with np.load(folder / "shards.npz") as shards:
            self.shards = np.split(shards["rows"], shards["ends"][:-1])
        self.model = build(self.settings)

    def initial(self) -> nn.Module:
        with np.load(self.folder / "initial.npz") as arrays:
            values = [torch.from_numpy(arrays[name]) for name in arrays.files]
        state = self.model.state_dict()
        self.model.load_state_dict(dict(zip(state, values, strict=True)))
        return self.model

    def examples(self, worker: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.shards[worker]
        return self.normalised(self.images[rows]), torch.from_numpy(self.labels[rows])

    def normalised(self, images: np.ndarray) -> torch.Tensor:
        mean, std = (
            torch.tensor(self.settings[name], dtype=torch.float32).view(1, -1, 1, 1)
            for name in ("mean", "std")
        )
        return torch.from_numpy(images).float().div_(255).sub_(mean).div_(std)


@lru_cache
def load(folder: str) -> Work:
    torch.set_num_threads(1)
    return Work(Path(folder))


def build(settings: dict) -> nn.Module:
    channels, height, width = settings["inputs"]
    classes = settings["classes"]
    if settings["architecture"] == "mlp":
        sizes = (channels * height * width, *settings["hidden"])
        layers: list[nn.Module] = [nn.Flatten()]
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), settings["hidden"]),
        nn.ReLU(),
        nn.Linear(settings["hidden"], classes),
    )


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: dict) -> float:
    """Train in place; returns the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["lr"])
    model.train()
    total = 0.0
    for _ in range(settings["epochs"]):
        for rows in torch.randperm(len(labels)).split(settings["batch_size"]):
            optimizer.zero_grad()
            loss = cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            if settings["clip_norm"]:
                nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
            total += loss.item() * len(rows)
    return total / (settings["epochs"] * len(labels))


def accuracy(model: nn.Module, work: Work) -> float:
    images = np.load(work.folder / "test-images.npy", mmap_mode="r")
    labels = torch.from_numpy(np.load(work.folder / "test-labels.npy"))
    right = 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(labels), 256):
            answers = model(work.normalised(images[start : start + 256])).argmax(1)
            right += int((answers == labels[start : start + 256]).sum())
    return right / len(labels)
