"""The tensors of a card's model, found without the memory that its weights would take."""

from __future__ import annotations

import torch

from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import CPU, schema_of
from fedfleet.types import Schema


def schema_of_card(card: ModelCard) -> Schema:
    """What ``schema_of`` says of the card's model; its weights are only described.

    Raises:
        UnknownModel, RecipeInvalid, SchemaMismatch: as ``build`` and ``schema_of``.
    """
    with isolated_rng(0, CPU), torch.device("meta"):
        return schema_of(build(card))
