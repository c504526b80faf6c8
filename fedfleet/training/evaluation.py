"""Evaluates a module on labelled data with exact counts.

Legend: B = batch, C = classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedfleet.data.shard import Examples
from fedfleet.errors import RecipeInvalid, TrainingFailed
from fedfleet.training.batches import Batches
from fedfleet.types import Evaluation, FloatVector, InputSpec

TOP = 5
# Pairs of label and answer are counted up to so many classes: they grow as the square.
MOST_PAIRED_CLASSES = 200
_NOT_FINITE = "the model's answers are not finite: training diverged; lower training.lr"


def evaluate(
    module: nn.Module,
    examples: Examples,
    inputs: InputSpec,
    num_classes: int,
    *,
    batch_size: int,
    device: torch.device,
    confusion: bool = False,
) -> Evaluation:
    """Count how a module does, in evaluation mode and full precision; its mode is restored.

    The answer is the class with the largest logit, the lowest label among equals; so counts do not
    depend on device or batch size (but for logits that differ in their last bits).

    Args:
        confusion: count pairs of label and answer too, where there are no more than
            ``MOST_PAIRED_CLASSES`` classes.

    Raises:
        DataInvalid: the examples are not what the model expects.
        TrainingFailed: the model answers NaN or infinity.
    """
    batches = Batches(examples, inputs, num_classes, device)
    tally = _Tally(num_classes, device, confusion and num_classes <= MOST_PAIRED_CLASSES)
    with evaluation_mode(module), torch.inference_mode():
        for start in range(0, len(batches), batch_size):
            images, labels = batches.take(slice(start, start + batch_size))
            logits = module(batches.normalise(images))
            check_logits(logits, len(labels), num_classes)
            tally.add(logits.double(), labels)
    return tally.result(len(batches))


def count_answers(logits_BC: Tensor, labels_B: Tensor) -> Evaluation:
    """Count how one batch of answers does, in the way of ``evaluate``.

    Raises:
        TrainingFailed: an answer is NaN or infinity.
    """
    counts = _Tally(logits_BC.shape[1], logits_BC.device, confusion=False)
    counts.add(logits_BC.double(), labels_B)
    return counts.result(len(labels_B))


def mean_probabilities(
    module: nn.Module,
    examples: Examples,
    inputs: InputSpec,
    num_classes: int,
    *,
    batch_size: int,
    device: torch.device,
) -> FloatVector:
    """The mean over examples of the probabilities that a module gives each class.

    In evaluation mode and full precision, like ``evaluate``.

    Returns:
        Shape (C,), sums to 1.

    Raises:
        DataInvalid: the examples are not what the model expects.
        TrainingFailed: the model answers NaN or infinity.
    """
    batches = Batches(examples, inputs, num_classes, device)
    total_C = torch.zeros(num_classes, dtype=torch.float64, device=device)
    with evaluation_mode(module), torch.inference_mode():
        for start in range(0, len(batches), batch_size):
            images, labels = batches.take(slice(start, start + batch_size))
            logits = module(batches.normalise(images))
            check_logits(logits, len(labels), num_classes)
            total_C += logits.double().softmax(1).sum(0)
    if not total_C.isfinite().all():
        raise TrainingFailed(_NOT_FINITE)
    mean_C: FloatVector = (total_C / len(batches)).cpu().numpy()
    return mean_C


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch every layer to evaluation, and each back to the mode that it was in."""
    before = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, was_training in before:
            layer.training = was_training


def check_logits(logits: Tensor, examples: int, num_classes: int) -> None:
    """Refuse a model whose answer is not one number per class.

    Raises:
        RecipeInvalid: naming both shapes.
    """
    if logits.shape != (examples, num_classes):
        raise RecipeInvalid(
            f"model: answers with shape {tuple(logits.shape)} to {examples} examples of "
            f"{num_classes} classes; expected {(examples, num_classes)}"
        )


class _Tally:
    """Sums on the device: one transfer at the end instead of several per batch."""

    def __init__(self, num_classes: int, device: torch.device, confusion: bool) -> None:
        self._classes = num_classes
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._top5 = torch.zeros((), dtype=torch.int64, device=device)
        # Rows: examples, right answers, answers per class.
        self._counts = torch.zeros((3, num_classes), dtype=torch.int64, device=device)
        pairs = num_classes**2 if confusion else 0
        self._pairs = torch.zeros(pairs, dtype=torch.int64, device=device)

    def add(self, logits_BC: Tensor, labels_B: Tensor) -> None:
        self._loss += F.cross_entropy(logits_BC, labels_B, reduction="sum")
        # A stable sort, so that equal logits rank by label on every device.
        ranked_BC = logits_BC.sort(dim=1, descending=True, stable=True).indices
        answer_B = ranked_BC[:, 0]
        self._top5 += (ranked_BC[:, :TOP] == labels_B[:, None]).sum()
        for row, hits in enumerate((labels_B, labels_B[answer_B == labels_B], answer_B)):
            self._counts[row] += torch.bincount(hits, minlength=self._classes)
        if len(self._pairs):
            pair_B = labels_B * self._classes + answer_B
            self._pairs += torch.bincount(pair_B, minlength=len(self._pairs))

    def result(self, samples: int) -> Evaluation:
        loss = float(self._loss)
        if not math.isfinite(loss):
            raise TrainingFailed(_NOT_FINITE)
        of_class, correct, predicted = (tuple(row) for row in self._counts.tolist())
        return Evaluation(
            samples=samples,
            loss_sum=loss,
            correct=sum(correct),
            top5=int(self._top5),
            class_samples=of_class,
            class_correct=correct,
            class_predicted=predicted,
            confusion=tuple(map(tuple, self._pairs.view(-1, self._classes).tolist())),
        )
