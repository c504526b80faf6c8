"""What a model is trained for: the one place where training asks of which kind it is.

Legend: B = batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from fedfleet.data.shard import Examples
from fedfleet.training.augment import Draws
from fedfleet.training.config import TrainingConfig
from fedfleet.types import Evaluation, InputSpec


class Objective(Protocol):
    """How answers are compared with what was to be answered: ``targets``, as ``Batches`` gives
    them out.
    """

    @property
    def num_classes(self) -> int: ...

    def on(self, training: Examples, config: TrainingConfig, device: torch.device) -> Objective:
        """The same with what the loss has to know of a recipe, a shard and a device.

        Raises:
            DataInvalid: the shard does not hold what the objective is about.
        """

    def check(self, answers: Tensor, examples: int) -> None:
        """Refuse a model that answers so many examples in another shape.

        Raises:
            RecipeInvalid: naming both shapes.
        """

    def loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """What a step minimises, shape (): a mean over the batch."""

    def summed_loss(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The loss times the examples of the batch, shape ()."""

    def sample_losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The loss of each example by itself, shape (B,)."""

    def correct(self, answers: Tensor, targets: Tensor) -> Tensor:
        """How many examples are answered rightly, shape (); a share of one counts as a share."""

    def augmented(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Images and targets after what chance decided for them."""

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
        """Count how a module does, in evaluation mode and full precision; its mode is restored.

        Args:
            confusion: count pairs of label and answer too, which are many.
            scores: measure too what cannot be added up over workers.

        Raises:
            DataInvalid: the examples are not what the model expects.
            TrainingFailed: the model answers NaN or infinity.
        """
