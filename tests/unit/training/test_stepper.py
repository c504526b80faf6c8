from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedfleet.errors import RecipeInvalid, TrainingFailed
from fedfleet.training.classification import Classification
from fedfleet.training.config import TrainingConfig
from fedfleet.training.seeding import torch_generator
from fedfleet.training.stepper import Stepper

CPU = torch.device("cpu")
GENERATOR = torch_generator(1)
IMAGES = torch.randn(6, 1, 4, 4, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


class Linear(nn.Module):
    """Softmax regression with a parameter that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 48).reshape(3, 16))
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def moved(steps: int = 1, adjuster: Any = None, **options: Any) -> Tensor:
    """Where the weight goes in a few steps at a learning rate of 0.5."""
    module = Linear()
    config = TrainingConfig(lr=0.5, **options)
    objective = Classification(3, config.label_smoothing)
    stepper = Stepper(module, list(module.parameters()), objective, config, CPU, adjuster)
    for _ in range(steps):
        stepper.step(IMAGES, LABELS, 0.5)
    return (module.weight - Linear().weight).detach()


def gradient(**options: Any) -> Tensor:
    module = Linear()
    F.cross_entropy(module(IMAGES), LABELS, **options).backward()
    assert module.weight.grad is not None
    return module.weight.grad


def test_step_is_gradient_descent() -> None:
    torch.testing.assert_close(moved(), -0.5 * gradient())


def test_label_smoothing_is_torchs() -> None:
    module = Linear()
    objective = Classification(3, smoothing=0.2)
    stepper = Stepper(module, list(module.parameters()), objective, TrainingConfig(), CPU)

    loss, _ = stepper.step(IMAGES, LABELS, 0.1)

    want = F.cross_entropy(Linear()(IMAGES), LABELS, label_smoothing=0.2)
    torch.testing.assert_close(loss, want.detach())
    torch.testing.assert_close(moved(label_smoothing=0.2), -0.5 * gradient(label_smoothing=0.2))


def test_clipping_bounds_the_step_and_leaves_small_gradients_alone() -> None:
    norm = float(gradient().norm())

    clipped, untouched = moved(clip_norm=norm / 10), moved(clip_norm=norm * 10)

    assert float(clipped.norm()) == pytest.approx(0.5 * norm / 10, rel=1e-4)
    torch.testing.assert_close(untouched, -0.5 * gradient())


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "adam", "weight_decay": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"label_smoothing": 0.1},
        {"clip_norm": 0.01},
        {"amp": "bfloat16"},
    ],
    ids=str,
)
def test_every_option_changes_the_result(options: dict[str, Any]) -> None:
    result = moved(steps=2, **options)

    assert torch.isfinite(result).all()
    assert not torch.equal(result, moved(steps=2))
    assert torch.equal(result, moved(steps=2, **options))


def test_bfloat16_stays_close_to_full_precision() -> None:
    torch.testing.assert_close(moved(amp="bfloat16"), moved(), rtol=0.05, atol=0.01)


def test_adjuster_runs_after_backward_and_before_clipping() -> None:
    seen: list[Tensor | None] = []

    def enlarge(params: Sequence[Tensor]) -> None:
        seen.extend(None if p.grad is None else p.grad.clone() for p in params)
        for param in params:
            assert param.grad is not None
            param.grad.mul_(1000)

    result = moved(adjuster=enlarge, clip_norm=0.1)

    torch.testing.assert_close(seen[0], gradient())
    assert torch.equal(seen[1], torch.zeros(2))  # takes no part in the loss: a gradient of zero
    assert float(result.norm()) == pytest.approx(0.5 * 0.1, rel=1e-4)


def test_lrs_lists_the_rate_of_each_step() -> None:
    module = Linear()
    stepper = Stepper(module, list(module.parameters()), Classification(3), TrainingConfig(), CPU)

    for lr in (0.5, 0.25, 0.25):
        stepper.step(IMAGES, LABELS, lr)

    assert stepper.lrs == [0.5, 0.25, 0.25]


def test_close_drops_the_gradients() -> None:
    module = Linear()
    stepper = Stepper(module, list(module.parameters()), Classification(3), TrainingConfig(), CPU)
    stepper.step(IMAGES, LABELS, 0.5)

    stepper.close()

    assert all(param.grad is None for param in module.parameters())


def test_float16_is_refused_on_a_cpu() -> None:
    module = Linear()

    with pytest.raises(RecipeInvalid) as caught:
        Stepper(
            module, list(module.parameters()), Classification(3), TrainingConfig(amp="float16"), CPU
        )

    assert caught.value.code == "RECIPE_INVALID"


def test_batch_of_one_under_batch_normalisation_is_a_clear_error() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1), nn.Flatten())
    stepper = Stepper(module, list(module.parameters()), Classification(1), TrainingConfig(), CPU)

    with pytest.raises(TrainingFailed, match="batch of one example") as caught:
        stepper.step(IMAGES[:1], LABELS[:1], 0.1)

    assert caught.value.code == "TRAINING_FAILED"
