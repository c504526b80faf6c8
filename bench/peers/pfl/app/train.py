"""A recipe's work, as bench/peers/work.py writes it, in pfl-research's simulator.

Usage: train.py WORK, in turns (bench/turns.py). Users are equally large and weighted by their
examples; batches keep the order of the shard, drawn at random once, for pfl does not shuffle.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from simple_cnn import layers
from torch import nn
from torch.nn.functional import cross_entropy


class Network(nn.Sequential):
    def loss(self, images, labels, eval=False):
        self.eval() if eval else self.train()
        return cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images, labels, eval=True):
        self.eval() if eval else self.train()
        right = int((self(images).argmax(1) == labels).sum())
        return {"accuracy": Weighted(right, len(labels))}


class Turns(TrainingProcessCallback):
    """Ends a turn of bench/turns.py with each iteration."""

    def __init__(self) -> None:
        print("ready", file=sys.__stdout__, flush=True)
        self._await()

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        seconds = [time.monotonic() - self._start_s, time.process_time() - self._start_cpu_s]
        print(json.dumps(seconds), file=sys.__stdout__, flush=True)
        self._await()
        return False, Metrics()

    def _await(self) -> None:
        input()
        self._start_s, self._start_cpu_s = time.monotonic(), time.process_time()


class Work:
    """What the files say; images are normalised once, before the time is taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = json.loads((folder / "work.json").read_text())
        self.images, self.labels = self.split("train")
        with np.load(folder / "shards.npz") as shards:
            self.shards = np.split(shards["rows"], shards["ends"][:-1])

    def split(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(np.load(self.folder / f"{name}-images.npy"))
        labels = torch.from_numpy(np.load(self.folder / f"{name}-labels.npy"))
        mean, std = (torch.tensor(self.settings[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        return images.float().div_(255).sub_(mean).div_(std), labels

    def user(self, worker: int) -> PyTorchTensorDataset:
        order = np.random.default_rng(worker).permutation(self.shards[worker])
        return PyTorchTensorDataset((self.images[order], self.labels[order]))

    def network(self) -> Network:
        channels, side, _ = self.settings["inputs"]
        network = Network(*layers(channels, side, self.settings["classes"]))
        with np.load(self.folder / "initial.npz") as arrays:
            values = [torch.from_numpy(arrays[name]) for name in arrays.files]
        network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
        return network


def main() -> None:
    sys.stdout = sys.stderr  # pfl prints, and only turns may come between
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # pfl draws its cohorts from it
    work = Work(Path(sys.argv[1]))
    settings = work.settings
    network = work.network()
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), 1.0),
    )
    users = FederatedDataset(
        work.user, get_user_sampler("minimize_reuse", range(settings["workers"]))
    )
    backend = SimulatedBackend(
        training_data=users, val_data=None, postprocessors=[WeightByDatapoints()]
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=settings["rounds"],
            evaluation_frequency=10**6,
            train_cohort_size=settings["cohort"],
            val_cohort_size=0,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_learning_rate=settings["lr"],
            local_num_epochs=settings["epochs"],
            local_batch_size=settings["batch_size"],
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Turns()],
    )


if __name__ == "__main__":
    main()
