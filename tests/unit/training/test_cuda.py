"""What only a CUDA device can show; skipped where there is none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.local import LocalTrainer, TrainResult, TrainTask
from fedfleet.training.state import initial_state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def train(card: ModelCard, examples: Examples, **options: Any) -> TrainResult:
    config = TrainingConfig(**{"lr": 0.05, "batch_size": 8, "device": "cuda", **options})
    return LocalTrainer(card, config, EvaluationConfig()).train(
        TrainTask(
            algorithm=FedAvg(FedAvgOptions()),
            received=initial_state(card, 1),
            examples=examples,
            seed=5,
            split_seed=3,
            round=1,
            rounds=2,
            memory={},
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amp": "float16", "clip_norm": 1.0},
        {"amp": "float16", "optimizer": "adam", "lr": 0.01},
        {"amp": "bfloat16", "channels_last": True, "pin_memory": True},
        {"augment": "flip-crop", "momentum": 0.9, "optimizer": "sgd"},
        {"optimizer": "adamw", "lr": 0.01},
    ],
    ids=str,
)
def test_cuda_training_is_reproducible_and_restores_the_generator(
    tiny_card: Callable[..., ModelCard], examples: Examples, options: dict[str, Any]
) -> None:
    card = tiny_card(dropout=0.3)
    before = torch.cuda.get_rng_state()

    first, second = train(card, examples, **options), train(card, examples, **options)

    assert first.work == second.work
    assert 0 < first.work.steps <= 4
    for left, right in zip(first.sections, second.sections, strict=True):
        assert np.array_equal(left.values, right.values)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_cuda_agrees_with_the_cpu(tiny_card: Callable[..., ModelCard], examples: Examples) -> None:
    card = tiny_card()

    on_cuda = train(card, examples, augment="flip-crop").sections
    on_cpu = train(card, examples, augment="flip-crop", device="cpu").sections

    for left, right in zip(on_cuda, on_cpu, strict=True):
        np.testing.assert_allclose(left.values, right.values, rtol=1e-2, atol=1e-4)
