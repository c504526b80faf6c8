import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedfleet.data.shard import Examples
from fedfleet.errors import DataEmpty, TrainingFailed
from fedfleet.training.classification import Classification
from fedfleet.training.config import TrainingConfig
from fedfleet.training.device import prepare
from fedfleet.training.loop import LoopResult, LoopTask, train_epochs
from fedfleet.training.optim import Plateau, cosine_lr
from fedfleet.training.stepper import Stepper
from fedfleet.training.watch import Watch
from fedfleet.types import InputSpec

CPU = torch.device("cpu")
INPUTS = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.1), nn.Flatten(), nn.Linear(144, 3)
    )


def task(examples: Examples, **changes: Any) -> LoopTask:
    held_out = changes.pop("held_out", 10)
    options: dict[str, Any] = {
        "training": examples.take(np.arange(held_out, len(examples))),
        "validation": examples.take(np.arange(held_out)),
        "inputs": INPUTS,
        "objective": Classification(3),
        "seed": 1,
        "round": 1,
        "rounds": 1,
        "plateau": Plateau(0.05),
    }
    return LoopTask(**{**options, **changes})


def run(
    work: LoopTask, module: nn.Module | None = None, watch: Watch | None = None, **options: Any
) -> LoopResult:
    config = TrainingConfig(**{"lr": 0.05, "batch_size": 8, **options})
    module = prepare(network() if module is None else module, config, CPU)
    return train_epochs(module, list(module.parameters()), work, config, CPU, watch=watch)


def test_loop_learns_and_reports_what_it_did(examples: Examples) -> None:
    first, last = run(task(examples)), run(task(examples), epochs=15)

    assert len(first.lrs) == 4
    assert len(last.lrs) == 60
    assert last.train_loss < first.train_loss
    assert last.train_accuracy > 0.9
    assert last.validation is not None
    assert last.validation.samples == 10
    assert last.validation.accuracy > 0.9


@pytest.mark.parametrize("epochs", [1, 3])
def test_loop_measures_the_loss_of_each_sample_in_the_first_epoch_if_asked(
    examples: Examples, epochs: int
) -> None:
    work = task(examples.take(np.arange(21)), held_out=0, rms_loss=True)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    smoothed = {"label_smoothing": 0.1, "epochs": epochs}
    result = run(work, module, lr=1e-30, batch_size=8, **smoothed)  # nothing moves

    pixels = (torch.from_numpy(work.training.images).float() / 255 - 0.5) / 0.25
    labels = torch.from_numpy(work.training.labels)
    losses = nn.functional.cross_entropy(
        module(pixels).detach(), labels, label_smoothing=0.1, reduction="none"
    )

    assert result.rms_loss == pytest.approx(float(losses.square().mean().sqrt()), rel=1e-5)
    assert run(task(examples)).rms_loss is None


def test_loop_averages_the_loss_over_samples(examples: Examples) -> None:
    work = task(examples.take(np.arange(21)), held_out=0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    result = run(work, module, lr=1e-30, batch_size=8)  # batches of 8, 8 and 5; nothing moves

    pixels = (torch.from_numpy(work.training.images).float() / 255 - 0.5) / 0.25
    logits = module(pixels).detach()
    labels = torch.from_numpy(work.training.labels)

    want = nn.functional.cross_entropy(logits, labels)
    assert result.train_loss == pytest.approx(float(want), rel=1e-5)
    assert result.train_accuracy == pytest.approx(float((logits.argmax(1) == labels).sum()) / 21)
    assert result.validation is None


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2},
        {"batch_size": 10},
        {"lr": 0.06},
        {"augment": "flip"},
        {"augment": "flip-crop"},
        {"batchnorm_momentum": 0.5},
        {"amp": "bfloat16"},
        {"scheduler": "cosine"},
    ],
    ids=str,
)
def test_loop_options_change_the_result_reproducibly(
    examples: Examples, options: dict[str, Any]
) -> None:
    def trained(**chosen: Any) -> dict[str, torch.Tensor]:
        module = network()
        run(task(examples), module, **chosen)
        return module.state_dict()

    plain, first, second = trained(), trained(**options), trained(**options)

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], plain[name]) for name in first)


def test_channels_last_gives_the_same_up_to_rounding(examples: Examples) -> None:
    plain, other = network(), network()

    run(task(examples), plain)
    run(task(examples), other, channels_last=True)

    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_batchnorm_momentum_weighs_the_newest_batch(examples: Examples) -> None:
    work = task(examples.take(np.arange(8)), held_out=0)
    pixels = (torch.from_numpy(work.training.images).float() / 255 - 0.5) / 0.25
    maps = network()[0](pixels).detach()

    for momentum in (0.25, 1.0):
        module = network()
        run(work, module, batchnorm_momentum=momentum)

        torch.testing.assert_close(module[1].running_mean, momentum * maps.mean((0, 2, 3)))
        variance = maps.transpose(0, 1).flatten(1).var(1)
        torch.testing.assert_close(
            module[1].running_var, (1 - momentum) + momentum * variance, rtol=1e-4, atol=1e-5
        )
        assert module[1].num_batches_tracked.dtype == torch.int64
        assert int(module[1].num_batches_tracked) == 1


def test_cosine_is_a_function_of_the_round(examples: Examples) -> None:
    config = TrainingConfig(lr=0.05, scheduler="cosine", min_lr=0.01)

    lrs = [
        lr
        for round in (1, 2, 3)
        for lr in run(
            task(examples, round=round, rounds=3), scheduler="cosine", min_lr=0.01, epochs=2
        ).lrs
    ]

    assert lrs == [cosine_lr(config, step, 24) for step in range(24)]
    assert lrs[0] == 0.05
    assert 0.01 < lrs[-1] < 0.011


def test_plateau_lowers_the_rate_when_the_validation_loss_stops_falling(
    examples: Examples,
) -> None:
    options = {"scheduler": "plateau", "plateau_factor": 0.5, "plateau_patience": 0}
    unbeatable = Plateau(0.05, best=0.0)

    result = run(task(examples, plateau=unbeatable), epochs=3, **options)

    assert result.lrs == (0.05,) * 4 + (0.025,) * 4 + (0.0125,) * 4
    assert result.plateau == Plateau(0.05 / 8, best=0.0, bad_epochs=0)


def test_plateau_watches_the_training_loss_of_a_shard_too_small_to_split(
    examples: Examples,
) -> None:
    result = run(task(examples, held_out=0), scheduler="plateau", epochs=2)

    assert result.validation is None
    assert 0 < result.plateau.best < result.train_loss  # the second epoch's, the lower one


def test_plateau_watches_each_epoch_of_a_round(examples: Examples) -> None:
    options = {"scheduler": "plateau", "plateau_patience": 0}
    after_one = run(task(examples), **options)
    assert after_one.validation is not None
    reached = after_one.validation.loss
    assert reached < after_one.train_loss

    # Better than what went before by its validation loss, worse by its training loss.
    result = run(task(examples, plateau=Plateau(0.05, best=reached + 1e-6)), epochs=2, **options)

    assert result.lrs == (0.05,) * 8


def test_loop_trains_in_training_mode_whatever_the_mode_was(examples: Examples) -> None:
    module = network().eval()

    run(task(examples), module, epochs=2, scheduler="plateau")

    assert int(module[1].num_batches_tracked) == 8


def test_loop_order_follows_the_seed(examples: Examples) -> None:
    assert run(task(examples)).train_loss == run(task(examples)).train_loss
    assert run(task(examples)).train_loss != run(task(examples, seed=2)).train_loss


def test_loop_merges_a_last_batch_of_one(examples: Examples) -> None:
    seen: list[int] = []
    module = network()
    module.register_forward_pre_hook(
        lambda layer, args: seen.append(len(args[0])) if layer.training else None
    )

    run(task(examples.take(np.arange(17)), held_out=0), module, batch_size=8)

    assert seen == [8, 9]


@pytest.mark.parametrize("scheduler", ["constant", "plateau"])
def test_divergence_names_the_step_and_what_to_do(examples: Examples, scheduler: str) -> None:
    with pytest.raises(
        TrainingFailed, match=r"not finite at step \d+ of 120 in round 1; lower training\.lr"
    ) as caught:
        run(
            task(examples, plateau=Plateau(1e30)),
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3)),
            lr=1e30,
            epochs=30,
            scheduler=scheduler,
        )

    assert caught.value.code == "TRAINING_FAILED"


def test_divergence_is_dated_to_its_first_step(examples: Examples) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    calls = 0

    def poison(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += layer.training
        return output * math.nan if calls == 3 else output

    module.register_forward_hook(poison)
    with pytest.raises(TrainingFailed, match="at step 3 of 4"):
        run(task(examples), module)


def test_loop_can_be_cancelled_between_steps(examples: Examples) -> None:
    steps = iter(range(10))

    with pytest.raises(TrainingFailed, match="cancelled after step 3 of 4") as caught:
        run(task(examples), watch=Watch(cancelled=lambda: next(steps) == 2))

    assert caught.value.code == "TRAINING_FAILED"


def test_loop_refuses_to_train_on_nothing(examples: Examples) -> None:
    with pytest.raises(DataEmpty) as caught:
        run(task(examples.take(np.arange(0)), held_out=0))

    assert caught.value.code == "DATA_EMPTY"


# Work that is cut short


@pytest.mark.parametrize("options", [{}, {"scheduler": "cosine"}, {"momentum": 0.9}], ids=str)
def test_loop_that_is_cut_did_the_first_steps_of_the_whole(
    options: dict[str, Any], examples: Examples
) -> None:
    whole = run(task(examples), epochs=3, **options)
    asked = iter(range(12))
    cut = run(task(examples), epochs=3, watch=Watch(until=lambda: next(asked) == 5), **options)
    never = run(task(examples), epochs=3, watch=Watch(until=lambda: False), **options)

    assert never == whole
    assert cut.lrs == whole.lrs[:6]
    assert cut.share == 0.5
    assert whole.share == 1.0
    assert len(cut.epoch_losses) == 2
    assert cut.epoch_losses[0] == whole.epoch_losses[0]
    assert cut.validation is None
    assert cut.train_loss == pytest.approx((2 * cut.epoch_losses[0] + cut.epoch_losses[1]) / 3, 0.2)


def test_loop_that_is_cut_takes_a_step_where_float16_overflowed_at_first(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's scaler does on CUDA: it skips the optimizer's step, and scales by less."""
    step, asked = Stepper.step, itertools.count(1)

    def overflow(self: Stepper, images: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        loss, logits = step(self, images, labels, lr)
        if next(asked) in overflowing:
            self.lrs.pop()
        return loss, logits

    monkeypatch.setattr(Stepper, "step", overflow)
    overflowing = {1, 2}
    cut = run(task(examples), epochs=3, watch=Watch(until=lambda: True))

    assert (len(cut.lrs), cut.share) == (1, 3 / 12)

    asked, overflowing = itertools.count(1), set(range(1, 12))
    whole = run(task(examples), epochs=3, watch=Watch(until=lambda: True))

    assert (len(whole.lrs), whole.share) == (1, 1.0)
    assert whole.validation is not None


def test_loop_that_is_cut_leaves_the_module_as_after_these_steps(examples: Examples) -> None:
    module, shorter = network(), network()
    asked = iter(range(12))
    run(task(examples), module, Watch(until=lambda: next(asked) == 3), epochs=3)
    run(task(examples), shorter, epochs=1)

    for ours, theirs in zip(module.parameters(), shorter.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_loop_that_is_cut_measures_the_loss_of_the_samples_it_saw(examples: Examples) -> None:
    work = task(examples, rms_loss=True)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    whole = run(work, module, lr=1e-30)
    asked = iter(range(4))
    cut = run(work, module, Watch(until=lambda: next(asked) == 1), lr=1e-30)

    assert whole.rms_loss is not None
    assert cut.rms_loss is not None
    # Nothing moves: half of the samples have a loss like all of them, not half of its square.
    assert 0.8 < cut.rms_loss / whole.rms_loss < 1.25


def test_loop_that_is_cut_does_not_count_an_epoch_of_the_plateau(examples: Examples) -> None:
    options: dict[str, Any] = {"scheduler": "plateau", "epochs": 3}
    asked = iter(range(12))
    cut = run(task(examples), watch=Watch(until=lambda: next(asked) == 5), **options)
    one = run(task(examples), scheduler="plateau", epochs=1)

    assert cut.plateau == one.plateau
