"""The objective of a model that finds the boxes of what is in an image.

Legend: B = batch, M = boxes of the image that has most, A = anchors, K = classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fedfleet.data.shard import Examples
from fedfleet.models.card import ModelCard
from fedfleet.models.detection import OFFSETS, anchors_of, centres_of
from fedfleet.training.augment import Draws, augment
from fedfleet.training.box_augment import augment_boxes
from fedfleet.training.config import TrainingConfig
from fedfleet.training.detection_evaluation import (
    check_answers,
    evaluate_detector,
    require_boxes,
)
from fedfleet.training.ssd_loss import Matched, SsdLoss, match, ssd_loss
from fedfleet.training.state import CPU
from fedfleet.types import Evaluation, InputSpec


@dataclass(frozen=True, eq=False)
class DetectionObjective:
    """The loss of single-shot detectors over answers (B, A, 4 + 1 + K); targets are boxes, shape
    (B, M, 5), as ``fedfleet.data.images.Boxes``.

    Args:
        card: of the detector.
    """

    card: ModelCard
    device: torch.device = CPU

    @property
    def num_classes(self) -> int:
        return len(self.card.classes)

    @cached_property
    def _corners_A4(self) -> Tensor:
        return torch.tensor(anchors_of(self.card), device=self.device)

    @cached_property
    def _centres_A4(self) -> Tensor:
        return torch.tensor(centres_of(self.card), device=self.device)

    def on(
        self, training: Examples, config: TrainingConfig, device: torch.device
    ) -> DetectionObjective:
        require_boxes(training)
        return DetectionObjective(self.card, device)

    def check(self, answers: Tensor, examples: int) -> None:
        check_answers(answers, examples, self.card)

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self._compared(answers, targets).mean()

    def summed_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self.loss(answers, targets) * len(targets)

    def sample_losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        return self._compared(answers, targets).by_image()

    def _compared(self, answers: Tensor, targets: Tensor) -> SsdLoss:
        return ssd_loss(answers, self._matched(targets), self._centres_A4)

    def _matched(self, targets: Tensor) -> Matched:
        return match(targets, self._corners_A4)

    def correct(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Of each image the share of its anchors with a box that name the right class; an image
        without boxes counts as right.
        """
        matched = self._matched(targets)
        is_box_BA = matched.is_box_BA
        is_right_BA = answers[..., OFFSETS:].argmax(2) == matched.classes_BA
        boxes_B = is_box_BA.sum(1)
        shares_B = (is_right_BA & is_box_BA).sum(1) / boxes_B.clamp(min=1)
        return torch.where(boxes_B > 0, shares_B, 1.0).double().sum()

    def augmented(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        return augment(images, draws), augment_boxes(targets, draws, (height, width))

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
        """As ``detection_evaluation.evaluate_detector``; no pairs are counted."""
        return evaluate_detector(
            module,
            examples,
            self.card,
            DetectionObjective(self.card, device).sample_losses,
            batch_size=batch_size,
            device=device,
            scores=scores,
        )
