"""What is counted by hand for a dense network is what is estimated."""

from __future__ import annotations

import pytest

from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.model_cost import cost_of, costs_of, training_memory_bytes
from fedfleet.training.config import TrainingConfig
from fedfleet.training.submodels import SubModels

RECIPE = """
name = "cost"
seed = 3
[model]
architecture = "mlp"
hidden = [8]
[data]
dataset = "digits"
[rounds]
rounds = 1
cohort = 1
"""
CARD = card_of(parse_recipe(RECIPE))
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10
# Of the flattened image, the hidden layer before and after its nonlinearity, the output.
ACTIVATIONS = 64 + 8 + 8 + 10


@pytest.mark.parametrize(
    ("training", "copies"),
    [
        (TrainingConfig(), 3),
        (TrainingConfig(momentum=0.9), 4),
        (TrainingConfig(optimizer="adam"), 5),
        (TrainingConfig(batch_size=0), 3),
    ],
)
def test_training_memory_counts_copies_of_the_weights_and_a_batch(
    training: TrainingConfig, copies: int
) -> None:
    examples = training.batch_size or 1

    found = training_memory_bytes(CARD, training)

    assert found == 4 * (copies * PARAMETERS + examples * ACTIVATIONS)


def test_costs_of_levels_fall_with_their_width() -> None:
    models = SubModels(CARD, (1.0, 0.5, 0.25))

    costs = costs_of(CARD, TrainingConfig(), models)

    assert list(costs) == ["a", "b", "c"]
    assert costs["a"] == cost_of(CARD, TrainingConfig())
    assert costs["b"].forward_flops == 2 * (64 * 4 + 4 * 10)
    assert costs["a"].memory_bytes > costs["b"].memory_bytes > costs["c"].memory_bytes
    assert costs_of(CARD, TrainingConfig(), None, flops=False)["a"].forward_flops == 0
