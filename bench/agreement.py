"""By how much backends differ from plain PyTorch on the golden batch: the largest difference of a
logit (less the mean over the classes), as a share of the largest one. Beside it what other weights
of the same architecture differ by, which the bounds must tell apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np
import torch
from record import record
from torch import nn
from torch.nn import functional as F

from fedfleet.data.golden import golden_batch
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import (
    CnnOptions,
    MlpOptions,
    MobileNetOptions,
    ModelConfig,
    ResNetOptions,
    VitOptions,
)
from fedfleet.types import InputSpec
from fedfleet_inference_api.backends.agreement import TOLERANCES
from fedfleet_inference_api.backends.backend import Answers, Prepared
from fedfleet_inference_api.backends.bfloat16 import BFloat16Torch, has_bfloat16
from fedfleet_inference_api.backends.onnx_runtime import OnnxRuntime, export_graph
from fedfleet_inference_api.backends.plain import PlainTorch

SIDE, CLASSES, IMAGES, STEPS, SEEDS = 32, 10, 8, 10, 3
ARCHITECTURES = {
    "cnn": CnnOptions(norm="batch", width=0.25),
    "mlp": MlpOptions(hidden=(16,)),
    "mobilenet_v3_small": MobileNetOptions(),
    "resnet18": ResNetOptions(),
    "vit": VitOptions(),
}
INPUTS = InputSpec(channels=3, height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)


def made(card: ModelCard, seed: int, *, trained: bool) -> Prepared:
    """A model with weights of its own: fresh, or after a few steps on coloured noise."""
    torch.manual_seed(seed)
    module = build(card)
    if trained:
        train(module)
    return Prepared(module.eval(), card.inputs)


def train(module: nn.Module) -> None:
    centres = torch.randn(CLASSES, *INPUTS.shape)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    module.train()
    for _ in range(STEPS):
        labels = torch.randint(0, CLASSES, (16,))
        images = centres[labels] + 0.3 * torch.randn(16, *INPUTS.shape)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(module(images), labels))
        optimizer.step()


def apart(want: Answers, got: Answers) -> float:
    """The largest difference of a centred logit, as a share of the largest one."""
    exact, given = (logits - logits.mean(1, keepdims=True) for logits in (want, got))
    return float(np.abs(exact - given).max() / np.abs(exact).max())


def differences(name: str, seed: int, *, trained: bool) -> Iterator[tuple[str, float]]:
    """Each backend's difference, and that of other weights."""
    model = ModelConfig(architecture=name, options=ARCHITECTURES[name])
    card = ModelCard(model=model, inputs=INPUTS, classes=tuple(map(str, range(CLASSES))))
    golden = golden_batch(INPUTS, IMAGES)
    prepared = made(card, seed, trained=trained)
    want = PlainTorch(prepared).run(golden)
    graph = export_graph(prepared, INPUTS)
    yield "onnx", apart(want, OnnxRuntime(prepared, graph, 1).run(golden))
    if has_bfloat16():
        yield "torch-bfloat16", apart(want, BFloat16Torch(prepared).run(golden))
    others = made(card, seed + SEEDS, trained=trained)
    yield "other weights", apart(want, PlainTorch(others).run(golden))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="weights of each architecture")
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    for name in ARCHITECTURES:
        for seed in range(seeds):
            for trained in (False, True):
                for what, share in differences(name, seed, trained=trained):
                    found.setdefault(what, []).append(share)
    bounds = {name: bound.relative for name, bound in TOLERANCES.items()}
    within = all(max(found[name]) <= bound for name, bound in bounds.items() if name in found)
    told_apart = min(found["other weights"]) > max(bounds.values())
    record(
        "agreement",
        within and told_apart,
        bounds=bounds,
        largest={what: float(f"{max(shares):.2g}") for what, shares in found.items()},
        smallest_of_other_weights=round(min(found["other weights"]), 3),
        models=len(found["onnx"]),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
