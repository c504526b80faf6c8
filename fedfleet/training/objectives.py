"""The objectives by the kind of model: the one place where a new kind is entered."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedfleet.models.card import ModelCard
from fedfleet.models.config import ModelKind
from fedfleet.training.classification import Classification
from fedfleet.training.detection import DetectionObjective
from fedfleet.training.objective import Objective


def _classification(card: ModelCard) -> Objective:
    return Classification(len(card.classes))


OBJECTIVES: Mapping[ModelKind, Callable[[ModelCard], Objective]] = {
    "classification": _classification,
    "detection": DetectionObjective,
}


def objective_of(card: ModelCard) -> Objective:
    """What a card's model is trained for."""
    return OBJECTIVES[card.kind](card)
