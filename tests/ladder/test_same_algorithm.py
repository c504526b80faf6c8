"""Runs that must be the same by different names: step 3 of the acceptance ladder (algorithms.md 7).

With real networks, real data and the real simulator; the quadratics of steps 1 and 2 are in
tests/unit/algorithms, where ``test_index.py`` finds them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quadratics import Fleet, pair
from torch.nn import functional as F

from fedfleet.algorithms.fedavg import FedAvg, FedAvgOptions
from fedfleet.algorithms.fedopt import FedAvgM, FedAvgMOptions
from fedfleet.data.shard import load_examples
from fedfleet.models.catalog import build
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state, load_state, schema_of, state_of
from fedfleet.types import ModelState

RECIPE = """
name = "ladder"
seed = 3
[model]
architecture = "mlp"
hidden = [32]
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 1.0
workers = {workers}
[training]
lr = 0.5
batch_size = 0
validation_fraction = 0.0
threads = 1
[rounds]
rounds = {rounds}
cohort = {workers}
[evaluation]
every = 100
[algorithm]
{algorithm}
"""
ROUNDS = 5


def recipe(algorithm: str, workers: int = 4) -> Recipe:
    return parse_recipe(RECIPE.format(algorithm=algorithm, workers=workers, rounds=ROUNDS))


def trained_centrally(like: Recipe) -> ModelState:
    """Plain torch: gradient descent on the loss over all examples of all workers."""
    whole = parse_recipe(like.source.replace('"dirichlet"\nalpha = 1.0\nworkers = 4', '"none"'))
    examples = load_examples(whole.data, "train", seed=3, shard=None, data_dir=None)
    card = card_of(like)
    module = build(card)
    load_state(module, initial_state(card, derive(like.seed, "initial")))
    images = torch.from_numpy(examples.images).float() / 255
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (card.inputs.mean, card.inputs.std))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        F.cross_entropy(module((images - mean) / std), torch.from_numpy(examples.labels)).backward()
        optimizer.step()
    return state_of(module, schema_of(module))


@pytest.mark.parametrize("name", ["fedavg", "fedsgd", "fednova"])
def test_local_sgd_of_one_step_is_gradient_descent_on_all_data(name: str) -> None:
    """Workers of very different sizes: the weights by samples must make it exact."""
    federated = simulate(recipe(f'name = "{name}"')).state

    central = trained_centrally(recipe(f'name = "{name}"'))

    np.testing.assert_allclose(federated.trainable, central.trainable, atol=1e-6)


def test_fedavgm_with_heavy_ball_is_slowmo() -> None:
    """Wang 2020 (arXiv 1910.00643), algorithm 1: u+ = beta u + (x0 - x)/lr, x+ = x0 - alpha lr u+.

    With a constant lr it is FedAvgM with the server_lr alpha; beta = 0, alpha = 1 is local SGD.
    """
    beta, alpha, lr = 0.7, 0.4, 0.02
    fleet = Fleet(FedAvgM(FedAvgMOptions(beta=beta, server_lr=alpha, nesterov=False)), pair(), 5.0)
    x, u = 5.0, 0.0
    for _ in range(20):
        mean = Fleet(FedAvg(FedAvgOptions()), pair(), x).rounds(1).x
        u = beta * u + (x - mean) / lr
        x -= alpha * lr * u
        fleet.round()

        assert fleet.x == pytest.approx(x, rel=1e-12)


def test_fednova_trains_where_some_workers_hold_almost_nothing() -> None:
    """NIID-Bench has 10 % with quantity skew: its deltas of workers without a whole batch."""
    skewed = recipe('name = "fednova"', workers=20).source
    for old, new in (
        ('"dirichlet"\nalpha = 1.0', '"quantity"\nalpha = 0.2'),
        ("batch_size = 0", "batch_size = 32"),
        (f"rounds = {ROUNDS}", "rounds = 12"),
    ):
        skewed = skewed.replace(old, new)
    parsed = parse_recipe(skewed)
    sizes = [
        len(load_examples(parsed.data, "train", seed=3, shard=i, data_dir=None)) for i in range(20)
    ]

    simulation = simulate(parsed)

    assert min(sizes) < 4 < 32 < max(sizes)
    last = simulation.rounds[-1].evaluation
    assert last is not None
    assert last.accuracy > 0.7
