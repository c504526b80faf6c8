import pytest

from fedfleet.training.config import EvaluationConfig, TrainingConfig


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay = nan"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0"),
        ({"clip_norm": float("inf")}, "clip_norm = inf"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0"),
        ({"validation_fraction": 1.0}, "validation_fraction = 1.0"),
        ({"batchnorm_momentum": 0.0}, "batchnorm_momentum = 0.0"),
        ({"threads": -1}, "threads = -1"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum"),
        ({"nesterov": True}, "nesterov = true"),
        ({"min_lr": 0.01}, "min_lr"),
        ({"scheduler": "cosine", "min_lr": 0.2}, "min_lr = 0.2"),
        ({"plateau_factor": 0.5}, "plateau_factor"),
        ({"scheduler": "plateau", "plateau_factor": 1.0}, "plateau_factor = 1.0"),
        ({"scheduler": "plateau", "validation_fraction": 0.0}, "validation_fraction"),
        ({"device": "cpu", "amp": "float16"}, 'amp = "float16"'),
        ({"device": "cpu", "pin_memory": True}, "pin_memory = true"),
    ],
)
def test_training_config_refuses_what_cannot_be_or_would_be_ignored(
    options: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError) as caught:
        TrainingConfig(**options)  # type: ignore[arg-type]

    assert named in str(caught.value)


def test_evaluation_is_due_every_so_many_rounds_and_at_the_end() -> None:
    config = EvaluationConfig(every=3)

    assert [round for round in range(1, 9) if config.due(round, 8)] == [3, 6, 8]
