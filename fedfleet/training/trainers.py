"""The trainers of one run, one for each width of its model."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, Protocol

from fedfleet.models.card import ModelCard
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet.training.device import resolve_device
from fedfleet.training.local import LocalTrainer
from fedfleet.training.submodels import SubModels
from fedfleet.types import Schema

FULL = "a"


class Levels(Protocol):
    """What the recipe says of the widths (``rounds.levels.LevelsConfig``)."""

    @property
    def rates(self) -> tuple[float, ...]: ...

    @property
    def scaler(self) -> bool: ...


class Trainers:
    """Built as they are needed.

    Args:
        card: of the whole model.
        levels: the recipe's; None for a run without.
        device: overrides the recipe's.
        kept: how many are held at once; a device that trains one level needs one.

    Raises:
        RecipeInvalid: the model does not get narrower, or the device is not there.
    """

    def __init__(
        self,
        card: ModelCard,
        training: TrainingConfig,
        evaluation: EvaluationConfig,
        levels: Levels | None = None,
        *,
        device: Literal["auto", "cpu", "cuda"] | None = None,
        kept: int = 16,
    ) -> None:
        self._card = card
        self._training = training
        self._evaluation = evaluation
        self._scaler = levels is not None and levels.scaler
        self._device = device
        self._kept = kept
        self._built: OrderedDict[str, LocalTrainer] = OrderedDict()
        self.models = SubModels(card, levels.rates) if levels else None
        if self.models is None:
            self.at()  # what is wrong is said now
        else:
            resolve_device(device or training.device)

    def at(self, level: str = FULL) -> LocalTrainer:
        """The trainer of a level.

        Raises:
            What ``LocalTrainer`` raises.
        """
        trainer = self._built.pop(level, None)
        if trainer is None:
            while len(self._built) >= self._kept:
                self._built.popitem(last=False)
            trainer = self._build(level)
        self._built[level] = trainer  # the newest
        return trainer

    def schema(self, level: str = FULL) -> Schema:
        """Of the model at a level."""
        if self.models is not None and level in self.models.levels:
            return self.models.schema(level)
        return self.at(level).schema

    def _build(self, level: str) -> LocalTrainer:
        if self.models is None:
            return LocalTrainer(self._card, self._training, self._evaluation, device=self._device)
        rate = self.models.rate(level)
        narrower = (self.models.rate(other) / rate for other in self.models.levels)
        return LocalTrainer(
            self.models.card(level),
            self._training,
            self._evaluation,
            device=self._device,
            rate=rate if self._scaler else 1.0,
            drop_rates=tuple(other for other in narrower if other <= 1.0),
        )
