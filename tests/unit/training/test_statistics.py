"""Static batch normalisation: what a query measures."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedfleet.data.shard import Examples
from fedfleet.training.statistics import measure_statistics
from fedfleet.types import InputSpec

INPUTS = InputSpec(channels=1, height=4, width=4, mean=(0.5,), std=(0.25,))
CPU = torch.device("cpu")


def examples(count: int) -> Examples:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, 1, 4, 4), np.uint8)
    return Examples(images, rng.integers(0, 2, count))


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.9))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 2))


def test_statistics_are_the_plain_means_over_the_batches_of_one_pass() -> None:
    module, data = network(), examples(10)
    norm = module[1]
    norm.running_mean.fill_(9.0)  # of a pass before, and forgotten
    before = {name: value.clone() for name, value in module.named_parameters()}

    measure_statistics(module, data, INPUTS, 2, batch_size=4, device=CPU)

    with torch.no_grad():
        pixels = (torch.from_numpy(data.images).float() / 255 - 0.5) / 0.25
        maps = [module[0](part) for part in torch.split(pixels, 4)]
    means = torch.stack([part.mean((0, 2, 3)) for part in maps]).mean(0)
    variances = torch.stack([part.var((0, 2, 3)) for part in maps]).mean(0)
    assert torch.allclose(norm.running_mean, means, atol=1e-6)
    assert torch.allclose(norm.running_var, variances, atol=1e-6)
    assert int(norm.num_batches_tracked) == 3
    assert norm.momentum == 0.1
    assert module.training
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None


def test_measuring_twice_gives_the_same_bits() -> None:
    module, data = network(), examples(7)

    measure_statistics(module, data, INPUTS, 2, batch_size=3, device=CPU)
    first = module[1].running_var.clone()
    torch.manual_seed(99)  # dropout is off
    measure_statistics(module, data, INPUTS, 2, batch_size=3, device=CPU)

    assert torch.equal(first, module[1].running_var)
