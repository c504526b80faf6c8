"""The objective of a model that names the class of an image or of what follows in a text.

Legend: B = batch, C = classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedfleet.data.shard import Examples
from fedfleet.training.absent import absent_classes, masked
from fedfleet.training.augment import Draws, augment
from fedfleet.training.config import TrainingConfig
from fedfleet.training.evaluation import check_logits, evaluate
from fedfleet.types import Evaluation, InputSpec


@dataclass(frozen=True, eq=False)
class Classification:
    """Cross-entropy over logits (B, C); targets are labels, int64, shape (B,).

    Args:
        smoothing: of the labels, in [0, 1).
        absent_C: classes whose logits the loss sees as 0; bool.
    """

    num_classes: int
    smoothing: float = 0.0
    absent_C: Tensor | None = None

    def on(
        self, training: Examples, config: TrainingConfig, device: torch.device
    ) -> Classification:
        absent_C = absent_classes(training, self.num_classes, config, device)
        return replace(self, smoothing=config.label_smoothing, absent_C=absent_C)

    def check(self, answers: Tensor, examples: int) -> None:
        check_logits(answers, examples, self.num_classes)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self._loss(answers, targets, "mean")

    def summed_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self._loss(answers, targets, "sum")

    def sample_losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self._loss(answers, targets, "none")

    def _loss(self, logits_BC: Tensor, labels_B: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            masked(logits_BC, self.absent_C),
            labels_B,
            label_smoothing=self.smoothing,
            reduction=reduction,
        )

    def correct(self, answers: Tensor, targets: Tensor) -> Tensor:
        return (masked(answers, self.absent_C).argmax(1) == targets).sum()

    def augmented(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        return augment(images, draws), targets

    def evaluate(
        self,
        module: nn.Module,
        examples: Examples,
        inputs: InputSpec,
        *,
        batch_size: int,
        device: torch.device,
        confusion: bool = False,
        scores: bool = False,
    ) -> Evaluation:
        """As ``evaluation.evaluate``; there are no other scores."""
        return evaluate(
            module,
            examples,
            inputs,
            self.num_classes,
            batch_size=batch_size,
            device=device,
            confusion=confusion,
        )
