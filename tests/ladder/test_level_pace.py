"""Levels that are assigned by measurement are faster than one model for all, in virtual time."""

from __future__ import annotations

from pathlib import Path

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.devices import parse_devices
from fedfleet.sim.driver import simulate
from fedfleet.sim.outcome import Simulation

FLEET = Path(__file__).parents[2] / "recipes" / "devices" / "pis-and-jetsons.toml"
RECIPE = """
name = "pace"
seed = 1
[model]
architecture = "mlp"
hidden = [128, 128]
[data]
dataset = "digits"
partition = "iid"
workers = 10
[training]
epochs = 5
batch_size = 8
lr = 0.01
momentum = 0.9
threads = 1
[rounds]
rounds = {rounds}
cohort = 10
{algorithm}
"""
ONE_SIZE = '[algorithm]\nname = "fedavg"\n'
# A little more than a Jetson takes for the whole model.
LEVELS = """[algorithm]
name = "heterofl"
[levels]
assignment = "measured"
target_s = 0.003
"""


def simulated(algorithm: str, rounds: int) -> Simulation:
    recipe = parse_recipe(RECIPE.format(algorithm=algorithm, rounds=rounds))
    return simulate(recipe, devices=parse_devices(FLEET.read_text()))


def seconds_to(simulation: Simulation, accuracy: float) -> float:
    return next(
        (
            done.virtual_s
            for done in simulation.rounds
            if done.evaluation and done.virtual_s and done.evaluation.accuracy >= accuracy
        ),
        float("inf"),
    )


def test_measured_levels_reach_an_accuracy_in_half_the_time_of_one_size():
    """40 % Pi 3, 40 % Pi 4, 20 % Jetson Nano: each kind has a width of its own."""
    one_size, levels = simulated(ONE_SIZE, 4), simulated(LEVELS, 8)

    narrow = levels.rounds[-1].levels
    held = sorted(narrow.get(worker, "a") for worker in levels.rounds[-1].workers)
    assert seconds_to(one_size, 0.9) < float("inf")
    assert seconds_to(levels, 0.9) * 2 <= seconds_to(one_size, 0.9)
    assert held.count("a") == 2
    assert len(set(held)) >= 3
