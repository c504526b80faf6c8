from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.training.absent import absent_classes, masked
from fedfleet.training.classification import Classification
from fedfleet.training.config import TrainingConfig
from fedfleet.training.gradient import mean_gradient
from fedfleet.training.loop import LoopTask, train_epochs
from fedfleet.training.optim import Plateau
from fedfleet.training.state import CPU
from fedfleet.types import InputSpec

MASKS = TrainingConfig(mask_absent=True, lr=0.5, batch_size=4, device="cpu")
INPUTS = InputSpec(channels=1, height=2, width=2, mean=(0.5,), std=(0.5,))
CARD = ModelCard(
    model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=(6,))),
    inputs=INPUTS,
    classes=("a", "b", "c", "d"),
)


def examples(labels: list[int]) -> Examples:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 2, 2), np.uint8)
    return Examples(images, np.array(labels, np.int64))


def loop_task(labels: list[int], held_out: list[int]) -> LoopTask:
    return LoopTask(
        training=examples(labels),
        validation=examples(held_out),
        inputs=INPUTS,
        objective=Classification(4),
        seed=1,
        round=1,
        rounds=1,
        plateau=Plateau(0.5),
    )


def test_absent_classes_are_those_without_an_example():
    absent = absent_classes(examples([1, 3, 3]), 4, MASKS, CPU)

    assert absent is not None
    assert absent.tolist() == [True, False, True, False]
    assert absent_classes(examples([1, 3]), 4, TrainingConfig(), CPU) is None


def test_masked_logits_are_zero_and_pass_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)

    seen = masked(logits, torch.tensor([True, False, True, False]))
    F.cross_entropy(seen, torch.tensor([1, 3, 3])).backward()

    assert (seen[:, [0, 2]] == 0).all()
    assert torch.equal(seen[:, [1, 3]], logits[:, [1, 3]])
    assert (logits.grad[:, [0, 2]] == 0).all()
    assert (logits.grad[:, [1, 3]] != 0).all()
    assert masked(logits, None) is logits


@pytest.mark.parametrize("masks", [True, False])
def test_training_leaves_the_rows_of_absent_classes_alone_where_they_are_masked(masks):
    torch.manual_seed(0)
    module = build(CARD)
    output = module.get_submodule("layers.3")
    before = output.weight.detach().clone()
    config = TrainingConfig(mask_absent=masks, lr=0.5, batch_size=4, device="cpu")

    train_epochs(module, list(module.parameters()), loop_task([1, 3, 1, 3, 3], []), config, CPU)

    moved = (output.weight.detach() != before).any(1).tolist()
    assert moved == ([False, True, False, True] if masks else [True] * 4)


def test_masked_training_loss_is_that_of_the_masked_logits():
    torch.manual_seed(0)
    module = build(CARD)
    data = examples([1, 3, 1, 3])
    pixels = torch.from_numpy(data.images).float().div(255).sub(0.5).div(0.5)
    with torch.no_grad():
        logits = masked(module(pixels), torch.tensor([True, False, True, False]))
    want = float(F.cross_entropy(logits, torch.from_numpy(data.labels)))

    work = loop_task([1, 3, 1, 3], [])
    result = train_epochs(module, list(module.parameters()), work, MASKS, CPU)

    assert result.train_loss == pytest.approx(want, rel=1e-5)


def test_evaluation_is_not_masked():
    torch.manual_seed(0)
    module = build(CARD)
    with torch.no_grad():
        output = module.get_submodule("layers.3")
        output.weight.zero_()
        output.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))

    work = loop_task([1, 3, 1, 3], [0, 0])
    result = train_epochs(module, list(module.parameters()), work, MASKS, CPU)

    assert result.validation is not None
    assert result.validation.correct == 2


def test_mean_gradient_is_of_the_masked_loss():
    torch.manual_seed(0)
    module = build(CARD)

    flat = mean_gradient(
        module, list(module.parameters()), examples([1, 3]), INPUTS, Classification(4), MASKS, CPU
    )

    rows = flat[-28:-4].reshape(4, 6), flat[-4:]
    assert isinstance(module.get_submodule("layers.3"), nn.Linear)
    for part in rows:
        assert (part[[0, 2]] == 0).all()
        assert (part[[1, 3]] != 0).any()
