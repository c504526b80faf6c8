from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedfleet.algorithms.base import Finished, Received, Trained
from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.classification import Classification
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.device import prepare
from fedfleet.training.gradient import mean_gradient
from fedfleet.training.local import LocalTrainer, TrainTask
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import initial_state, schema_of, state_of, trainable_parameters
from fedfleet.types import FloatVector

CPU = torch.device("cpu")
MakeCard = Callable[..., ModelCard]


def built(card: ModelCard) -> nn.Module:
    with isolated_rng(3, CPU):
        return build(card)


def gradient(module: nn.Module, card: ModelCard, examples: Examples, **options: Any) -> FloatVector:
    config = TrainingConfig(**{"batch_size": 8, **options})
    params = trainable_parameters(module, schema_of(module))
    return mean_gradient(module, params, examples, card.inputs, Classification(3), config, CPU)


def by_hand(
    module: nn.Module, card: ModelCard, examples: Examples, smoothing: float = 0.0
) -> FloatVector:
    """The gradient of the mean loss over all examples as one batch."""
    pixels = torch.from_numpy(examples.images) / 255
    images = (pixels - card.inputs.mean[0]) / card.inputs.std[0]
    labels = torch.from_numpy(examples.labels)
    module.train()
    loss = F.cross_entropy(module(images), labels, label_smoothing=smoothing)
    params = trainable_parameters(module, schema_of(module))
    parts = torch.autograd.grad(loss, params)
    return torch.cat([part.reshape(-1) for part in parts]).numpy()


@pytest.mark.parametrize("batch_size", [0, 1, 7, 13, 40, 100])
def test_mean_gradient_is_that_of_all_examples_whatever_the_batches(
    mlp_card: ModelCard, examples: Examples, batch_size: int
) -> None:
    module = built(mlp_card)

    found = gradient(module, mlp_card, examples, batch_size=batch_size)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(module, mlp_card, examples), rtol=1e-4, atol=1e-7)
    assert np.abs(found).max() > 1e-3


def test_mean_gradient_is_of_the_loss_that_is_minimised(
    mlp_card: ModelCard, examples: Examples
) -> None:
    module = built(mlp_card)
    values = state_of(module, schema_of(module)).trainable

    found = gradient(module, mlp_card, examples, label_smoothing=0.2, weight_decay=0.3)

    expected = by_hand(module, mlp_card, examples, smoothing=0.2) + 0.3 * values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_mean_gradient_is_what_a_full_batch_step_of_sgd_goes_along(
    tiny_card: MakeCard, examples: Examples
) -> None:
    """With batch normalisation and dropout off, through the trainer, as algorithms see it."""
    card = tiny_card()
    seen: list[tuple[Trained, FloatVector]] = []

    class Looking(FedAvg):
        def finish(self, received: Received, trained: Trained) -> Finished:
            seen.append((trained, trained.gradient()))
            return super().finish(received, trained)

    config = TrainingConfig(
        lr=0.1, batch_size=0, weight_decay=0.01, validation_fraction=0.0, device="cpu"
    )
    trainer = LocalTrainer(card, config, EvaluationConfig())
    task = TrainTask(
        algorithm=Looking(FedAvgOptions()),
        received=initial_state(card, 1),
        examples=examples,
        seed=1,
        split_seed=1,
        round=1,
        rounds=1,
        memory={},
    )
    results = [trainer.train(task) for _ in range(2)]

    trained, found = seen[0]
    np.testing.assert_allclose(-trained.delta / 0.1, found, rtol=1e-3, atol=2e-6)
    # It leaves nothing behind, neither in the trained state nor for the next task.
    np.testing.assert_array_equal(found, seen[1][1])
    for one, other in zip(*(result.sections for result in results), strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(results[0].sections[1].values, trained.state.statistics)


def test_mean_gradient_moves_no_parameter_and_leaves_no_gradient(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()
    module = built(card)
    before = state_of(module, schema_of(module)).trainable.copy()

    found = gradient(module, card, examples)

    np.testing.assert_array_equal(state_of(module, schema_of(module)).trainable, before)
    assert [param.grad for param in module.parameters()] == [None] * len(list(module.parameters()))
    assert np.isfinite(found).all()


def test_mean_gradient_is_taken_in_training_mode(tiny_card: MakeCard, examples: Examples) -> None:
    card = tiny_card()
    modules = [built(card).train(), built(card).eval()]

    found = [gradient(module, card, examples) for module in modules]

    np.testing.assert_array_equal(found[0], found[1])


def test_mean_gradient_ignores_the_gradient_that_was_left_there(
    mlp_card: ModelCard, examples: Examples
) -> None:
    module = built(mlp_card)
    clean = gradient(module, mlp_card, examples)
    for param in module.parameters():
        param.grad = torch.ones_like(param)

    np.testing.assert_array_equal(gradient(module, mlp_card, examples), clean)


class Idle(nn.Module):
    """A parameter that takes no part, before one that does."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(2))
        self.weight = nn.Parameter(torch.zeros(3, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T


def test_mean_gradient_of_an_idle_parameter_is_its_decay_alone(
    mlp_card: ModelCard, examples: Examples
) -> None:
    assert gradient(Idle(), mlp_card, examples)[:2].tolist() == [0.0, 0.0]
    decayed = gradient(Idle(), mlp_card, examples, weight_decay=0.5)
    assert decayed[:2].tolist() == [0.5, 0.5]
    assert decayed.shape == (2 + 3 * 64,)


def test_mean_gradient_in_channels_last_is_in_schema_order(
    tiny_card: MakeCard, examples: Examples
) -> None:
    card = tiny_card()
    plain = gradient(built(card), card, examples)
    config = TrainingConfig(channels_last=True)
    module = prepare(built(card), config, CPU)

    found = gradient(module, card, examples, channels_last=True)

    np.testing.assert_allclose(found, plain, rtol=1e-3, atol=1e-6)
