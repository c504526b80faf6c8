import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedfleet.data.shard import Examples
from fedfleet.errors import RecipeInvalid, TrainingFailed
from fedfleet.training.evaluation import MOST_PAIRED_CLASSES, evaluate, mean_probabilities
from fedfleet.types import Evaluation, InputSpec

CPU = torch.device("cpu")


class Table(nn.Module):
    """Answers with a row of a table: the pixel of an example is its row."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        return self.rows[images.flatten().round().long()]


def judge(
    logits: np.ndarray, labels: list[int], batch_size: int = 4, *, confusion: bool = False
) -> Evaluation:
    count, classes = logits.shape
    inputs = InputSpec(channels=1, height=1, width=1, mean=(0.0,), std=(1 / 255,))
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return evaluate(
        Table(logits),
        Examples(images, np.array(labels, np.int64)),
        inputs,
        classes,
        batch_size=batch_size,
        device=CPU,
        confusion=confusion,
    )


def test_evaluate_equals_a_hand_computation() -> None:
    logits = np.log(
        np.array(
            [
                [0.40, 0.20, 0.10, 0.10, 0.10, 0.06, 0.04],
                [0.30, 0.35, 0.05, 0.05, 0.05, 0.10, 0.10],
                [0.02, 0.03, 0.05, 0.10, 0.20, 0.25, 0.35],
            ]
        )
    )

    result = judge(logits, [0, 0, 0])

    assert result.samples == 3
    assert result.loss_sum == pytest.approx(-math.log(0.40 * 0.30 * 0.02), rel=1e-6)
    assert result.correct == 1
    assert result.top5 == 2
    assert result.class_samples == (3, 0, 0, 0, 0, 0, 0)
    assert result.class_correct == (1, 0, 0, 0, 0, 0, 0)
    assert result.class_predicted == (1, 1, 0, 0, 0, 0, 1)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_evaluate_counts_are_exact_and_do_not_depend_on_batch_size(data: st.DataObject) -> None:
    count, classes = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = rng.integers(-2, 3, (count, classes)).astype(np.float64)  # with many ties
    labels = rng.integers(0, classes, count)

    small, large = (judge(logits, labels.tolist(), size) for size in (3, 64))

    # A stable order: the largest first, the lowest label among equals.
    ranked = np.argsort(-logits, axis=1, kind="stable")
    log_sum = np.log(np.exp(logits).sum(1))
    assert large.correct == int((ranked[:, 0] == labels).sum())
    assert large.top5 == int((ranked[:, :5] == labels[:, None]).any(1).sum())
    assert large.class_samples == tuple(np.bincount(labels, minlength=classes))
    assert large.class_predicted == tuple(np.bincount(ranked[:, 0], minlength=classes))
    assert large.loss_sum == pytest.approx((log_sum - logits[np.arange(count), labels]).sum())
    assert small.loss_sum == pytest.approx(large.loss_sum, rel=1e-12)
    for name in ("correct", "top5", "class_samples", "class_correct", "class_predicted"):
        assert getattr(small, name) == getattr(large, name)


def test_evaluations_of_the_parts_add_up_to_that_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 6)), rng.integers(0, 6, 20)

    parts = [judge(logits[i::3], labels[i::3].tolist()) for i in range(3)]
    whole = judge(logits, labels.tolist())

    total = parts[0] + parts[1] + parts[2]
    assert replace(total, loss_sum=0.0) == replace(whole, loss_sum=0.0)
    assert total.loss_sum == pytest.approx(whole.loss_sum, rel=1e-12)


def test_evaluate_counts_pairs_of_label_and_answer_where_asked() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)

    counted = judge(logits, labels.tolist(), confusion=True)

    expected = np.zeros((4, 4), int)
    np.add.at(expected, (labels, logits.argmax(1)), 1)
    assert counted.confusion == tuple(map(tuple, expected.tolist()))
    assert replace(counted, confusion=()) == judge(logits, labels.tolist())
    assert Evaluation.from_json(counted.to_json()) == counted
    assert (counted + counted).confusion == tuple(map(tuple, (2 * expected).tolist()))
    assert (counted + judge(logits, labels.tolist())).confusion == ()


def test_evaluate_counts_no_pairs_of_very_many_classes() -> None:
    many = np.eye(MOST_PAIRED_CLASSES + 1)

    assert judge(many[:, :-1], [0] * len(many), confusion=True).confusion != ()
    assert judge(many, [0] * len(many), confusion=True).confusion == ()


def test_evaluate_takes_all_classes_as_top5_when_there_are_fewer() -> None:
    assert judge(np.array([[3.0, 2.0, 1.0]]), [2]).top5 == 1


def test_evaluate_of_nothing_is_zero() -> None:
    result = judge(np.zeros((0, 3)), [])

    assert (result.samples, result.loss_sum, result.class_samples) == (0, 0.0, (0, 0, 0))


def test_evaluate_uses_running_statistics_and_restores_every_mode(
    examples: Examples, inputs: InputSpec
) -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(72, 3)
    )
    module[1].eval()  # a layer that its owner keeps frozen
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rng = torch.get_rng_state()

    results = [
        evaluate(module, examples, inputs, 3, batch_size=size, device=CPU) for size in (1, 7, 64)
    ]

    assert [layer.training for layer in module] == [True, False, True, True, True]
    assert all(torch.equal(module.state_dict()[name], t) for name, t in before.items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert len({(r.correct, r.class_predicted) for r in results}) == 1
    for result in results:
        assert result.loss_sum == pytest.approx(results[0].loss_sum, rel=1e-6)


def test_evaluate_refuses_answers_that_are_not_finite() -> None:
    with pytest.raises(TrainingFailed, match="not finite") as caught:
        judge(np.array([[math.nan, 0.0]]), [0])

    assert caught.value.code == "TRAINING_FAILED"


def test_evaluate_refuses_a_model_with_another_number_of_classes(
    examples: Examples, inputs: InputSpec
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))

    with pytest.raises(RecipeInvalid, match=r"answers with shape \(8, 4\)") as caught:
        evaluate(module, examples, inputs, 3, batch_size=8, device=CPU)

    assert caught.value.code == "RECIPE_INVALID"


def probabilities(logits: np.ndarray, batch_size: int = 4) -> np.ndarray:
    count, classes = logits.shape
    inputs = InputSpec(channels=1, height=1, width=1, mean=(0.0,), std=(1 / 255,))
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return mean_probabilities(
        Table(logits),
        Examples(images, np.zeros(count, np.int64)),
        inputs,
        classes,
        batch_size=batch_size,
        device=CPU,
    )


def test_mean_probabilities_equal_a_hand_computation() -> None:
    rows = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])

    for batch_size in (1, 2, 3, 8):
        found = probabilities(np.log(rows) + 3.0, batch_size)
        np.testing.assert_allclose(found, rows.mean(0), rtol=1e-6)
        assert found.dtype == np.float64


def test_mean_probabilities_of_a_model_that_diverged_are_refused() -> None:
    with pytest.raises(TrainingFailed, match="not finite"):
        probabilities(np.array([[0.0, np.nan]]))
