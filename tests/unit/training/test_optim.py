import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedfleet.training.config import TrainingConfig
from fedfleet.training.optim import Plateau, cosine_lr, make_optimizer

PLATEAU = TrainingConfig(
    lr=1.0, scheduler="plateau", plateau_factor=0.5, plateau_patience=2, min_lr=0.2
)


def walk(config: TrainingConfig, reference: type[torch.optim.Optimizer], **options: object) -> None:
    """Take five steps with the recipe's optimizer and with torch's own, and compare."""
    ours = nn.Parameter(torch.linspace(-1, 1, 6))
    theirs = nn.Parameter(torch.linspace(-1, 1, 6))
    optimizers = make_optimizer([ours], config, config.lr), reference([theirs], **options)
    for step in range(5):
        for param, optimizer in zip((ours, theirs), optimizers, strict=True):
            param.grad = (param * (step + 1)).detach()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert not torch.equal(ours, torch.linspace(-1, 1, 6))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_make_optimizer_is_torchs(weight_decay: float) -> None:
    decay = {"lr": 0.05, "weight_decay": weight_decay}

    walk(TrainingConfig(**decay), torch.optim.SGD, **decay)
    walk(TrainingConfig(momentum=0.9, **decay), torch.optim.SGD, momentum=0.9, **decay)
    walk(
        TrainingConfig(momentum=0.9, nesterov=True, **decay),
        torch.optim.SGD,
        momentum=0.9,
        nesterov=True,
        **decay,
    )
    walk(TrainingConfig(optimizer="adam", **decay), torch.optim.Adam, **decay)
    walk(TrainingConfig(optimizer="adamw", **decay), torch.optim.AdamW, **decay)


def test_weight_decay_is_coupled_in_adam_and_decoupled_in_adamw() -> None:
    moved = {}
    for name in ("adam", "adamw"):
        param = nn.Parameter(torch.tensor([2.0]))
        config = TrainingConfig(optimizer=name, lr=0.1, weight_decay=0.5)
        optimizer = make_optimizer([param], config, config.lr)
        param.grad = torch.zeros(1)
        optimizer.step()
        moved[name] = float(param.detach()) - 2.0

    assert moved["adam"] == pytest.approx(-0.1, rel=1e-5)  # a whole step along the decay's sign
    assert moved["adamw"] == pytest.approx(-0.1 * 0.5 * 2.0, rel=1e-5)


def test_cosine_starts_at_lr_and_ends_at_min_lr() -> None:
    config = TrainingConfig(lr=0.4, scheduler="cosine", min_lr=0.1)

    assert cosine_lr(config, 0, 100) == 0.4
    assert cosine_lr(config, 50, 100) == pytest.approx(0.25)
    assert cosine_lr(config, 100, 100) == 0.1
    assert cosine_lr(config, 250, 100) == 0.1
    assert cosine_lr(TrainingConfig(scheduler="cosine"), 7, 7) == 0.0


@given(total=st.integers(1, 500))
def test_cosine_never_rises(total: int) -> None:
    config = TrainingConfig(lr=0.4, scheduler="cosine", min_lr=0.1)

    rates = [cosine_lr(config, step, total) for step in range(total + 1)]

    assert rates == sorted(rates, reverse=True)


@given(losses=st.lists(st.integers(0, 20), max_size=60), patience=st.integers(0, 4))
def test_plateau_is_torchs_with_threshold_zero(losses: list[int], patience: int) -> None:
    config = TrainingConfig(
        lr=1.0, scheduler="plateau", plateau_factor=0.5, plateau_patience=patience, min_lr=0.2
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=0.0, min_lr=0.2
    )
    state = Plateau.recall(config, {})

    for loss in losses:
        state = state.after(config, float(loss))
        reference.step(float(loss))
        assert state.lr == optimizer.param_groups[0]["lr"]


def test_plateau_survives_in_memory() -> None:
    state = Plateau.recall(PLATEAU, {}).after(PLATEAU, 3.0).after(PLATEAU, 4.0)

    kept = state.keep()

    assert Plateau.recall(PLATEAU, kept) == state == Plateau(1.0, 3.0, 1)
    assert all(key.startswith("training.") for key in kept)
    assert math.isinf(Plateau.recall(PLATEAU, Plateau(1.0).keep()).best)
