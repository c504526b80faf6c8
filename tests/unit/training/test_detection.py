"""Detectors in the training loop: same laws as classifiers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from boxed import CARD, squares

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.data.boxes import check_boxes
from fedfleet.data.shard import Examples
from fedfleet.errors import DataInvalid, RecipeInvalid, TrainingFailed
from fedfleet.models.config import SsdTinyOptions
from fedfleet.models.detection import anchors_of
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.detection import DetectionObjective
from fedfleet.training.level_probe_child import _examples
from fedfleet.training.local import LocalTrainer, TrainTask
from fedfleet.training.objectives import objective_of
from fedfleet.training.stacked import why_not_stacked
from fedfleet.training.state import initial_state
from fedfleet.training.submodels import SubModels
from fedfleet.types import ModelState

CONFIG = TrainingConfig(
    epochs=2, batch_size=8, lr=0.01, optimizer="adam", validation_fraction=0.25, threads=1
)


def task(examples: Examples, start: ModelState, **changes: Any) -> TrainTask:
    given: dict[str, Any] = {
        "algorithm": FedAvg(FedAvgOptions()),
        "received": start,
        "examples": examples,
        "seed": 1,
        "split_seed": 2,
        "round": 1,
        "rounds": 1,
        "memory": {},
    }
    return TrainTask(**(given | changes))


def trainer(**changes: Any) -> LocalTrainer:
    return LocalTrainer(CARD, replace(CONFIG, **changes), EvaluationConfig(batch_size=16))


def moved(result: Any, start: ModelState) -> ModelState:
    delta = {section.name: section.values for section in result.sections}
    return ModelState(
        start.schema, start.trainable + delta["trainable"], delta["statistic"], delta["counter"]
    )


def test_training_finds_more_boxes() -> None:
    start = initial_state(CARD, 1)
    local = trainer(epochs=30, lr=0.02, augment="flip", scheduler="cosine")

    result = local.train(task(squares(96), start, rms_loss=True))

    before, after = (local.evaluate(s, squares(64, 9)) for s in (start, moved(result, start)))
    assert after.accuracy > 0.3 > before.accuracy
    assert after.loss < before.loss / 1.5
    metrics = result.work.metrics
    assert 0.5 < metrics["train_accuracy"] <= 1
    assert metrics["rms_loss"] > 0
    assert metrics["validation_loss"] > 0


def test_training_is_repeated_bit_for_bit() -> None:
    start, local = initial_state(CARD, 1), trainer(augment="flip-crop")

    first, second = (local.train(task(squares(24), start)) for _ in range(2))

    for one, other in zip(first.sections, second.sections, strict=True):
        assert one.values.tobytes() == other.values.tobytes()


def test_gradient_of_all_examples_is_that_of_one_batch() -> None:
    examples, start = squares(12), initial_state(CARD, 1)
    whole = trainer(batch_size=0, validation_fraction=0.0)

    gradient = whole._gradient(start, examples)

    step = LocalTrainer(
        CARD,
        TrainingConfig(lr=1.0, batch_size=0, validation_fraction=0.0, threads=1),
        EvaluationConfig(),
    ).train(task(examples, start))
    np.testing.assert_allclose(step.sections[0].values, -gradient, atol=1e-5)


def test_examples_without_boxes_are_refused() -> None:
    examples, start, local = squares(12), initial_state(CARD, 1), trainer()
    bare = Examples(examples.images, examples.labels)

    with pytest.raises(DataInvalid, match="needs examples with boxes"):
        local.train(task(bare, start))
    with pytest.raises(DataInvalid, match="needs examples with boxes"):
        local.evaluate(start, bare)


def test_boxes_that_cannot_be_are_refused() -> None:
    examples = squares(12)
    assert examples.boxes is not None
    wrong = Examples(examples.images, examples.labels, examples.boxes + np.float32(5))

    with pytest.raises(DataInvalid, match=r"labels of boxes"):
        trainer().train(task(wrong, initial_state(CARD, 1)))


def test_diverged_detector_is_an_error() -> None:
    start = initial_state(CARD, 1)
    wild = ModelState(start.schema, start.trainable * np.nan, start.statistics, start.counters)

    with pytest.raises(TrainingFailed, match="not finite"):
        trainer().evaluate(wild, squares(8))


def test_answers_of_another_shape_are_refused() -> None:
    objective = objective_of(CARD)
    assert isinstance(objective, DetectionObjective)

    with pytest.raises(RecipeInvalid, match=r"answers with shape \(2, 5, 7\) to 2 images"):
        objective.check(torch.zeros(2, 5, 7), 2)


def test_correct_is_a_share_of_the_anchors_of_each_image() -> None:
    objective = objective_of(CARD)
    targets = torch.zeros(2, 1, 5)
    targets[0, 0] = torch.tensor([1, 0.25, 0.25, 0.5, 0.5])
    targets[1, 0, 0] = -1
    answers = torch.zeros(2, len(anchors_of(CARD)), 7)
    wrong, right = answers.clone(), answers.clone()
    wrong[..., 5] = right[..., 6] = 1

    assert float(objective.correct(wrong, targets)) == 1.0  # the picture without a box
    assert float(objective.correct(right, targets)) == 2.0


def test_narrow_detector_is_a_part_of_the_wide_one() -> None:
    card = replace(CARD, model=replace(CARD.model, options=SsdTinyOptions()))
    models = SubModels(card, (1.0, 0.5))
    start = initial_state(card, 1)

    part = models.slice("b").cut(start)

    assert part.trainable.size < start.trainable.size / 2
    narrow = LocalTrainer(models.card("b"), CONFIG, EvaluationConfig(), rate=0.5)
    assert narrow.train(task(squares(8), part)).work.steps == 2
    assert 0 <= narrow.evaluate(part, squares(8, 1)).accuracy <= 1


def test_device_measures_how_fast_it_trains_a_detector() -> None:
    examples = _examples(CARD, 5)

    assert examples.boxes is not None
    check_boxes(examples.boxes, 5, 2)


def test_detectors_are_not_stacked() -> None:
    assert "ssd_tiny" in why_not_stacked(trainer())
