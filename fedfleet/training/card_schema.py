"""The tensors of a card's model, found without the memory that its weights would take."""

from __future__ import annotations

import torch

from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import CPU, schema_of
from fedfleet.types import Schema


def schema_of_card(card: ModelCard) -> Schema:
    """What ``schema_of`` says of the card's model; its weights are only described.

    Call it where nothing else draws from torch's global generator.

    Raises:
        UnknownModel, RecipeInvalid, SchemaMismatch: as ``build`` and ``schema_of``; RecipeInvalid
            also where torch cannot count the elements, or a plug-in fails at the card's options.
    """
    try:
        with isolated_rng(0, CPU), torch.device("meta"):
            return schema_of(build(card))
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:
        name = card.model.architecture
        raise RecipeInvalid(f'model "{name}" cannot be built: {error}'[:300]) from error
