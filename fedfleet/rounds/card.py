"""The card of a recipe's model: what builds it and what serves it."""

from __future__ import annotations

from fedfleet.data.catalog import describe
from fedfleet.models.card import ModelCard
from fedfleet.rounds.kinds import check_data
from fedfleet.rounds.recipe import Recipe


def card_of(recipe: Recipe) -> ModelCard:
    """Describe the model; needs no data and imports no torch.

    Raises:
        RecipeInvalid: a plug-in's options do not fit, or the data set is of another kind.
    """
    spec = describe(recipe.data)
    check_data(recipe.kind, recipe.data, spec)
    return ModelCard(model=recipe.model, inputs=spec.inputs, classes=spec.classes, kind=recipe.kind)
