"""Same recipe and seed, two rounds: real gRPC with two workers and the simulator, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import digits_recipe, fleet, running_coordinator, state_of_version

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.types import Kind

RECIPES = {
    # Statistics, counters, and pooling of them.
    "resnet18": """
name = "parity"
seed = 3
[model]
architecture = "resnet18"
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.5
workers = 2
[training]
batch_size = 128
lr = 0.05
threads = 1
[algorithm]
name = "fedavg"
statistics = "pooled"
[rounds]
rounds = 2
cohort = 2
[evaluation]
every = 2
""",
    # A worker's memory that goes from round to round, augmentation, the workers' evaluation.
    "cnn": """
name = "parity"
seed = 5
[model]
architecture = "cnn"
hidden = 32
[data]
dataset = "digits"
partition = "classes"
classes_per_worker = 5
workers = 2
[training]
epochs = 2
batch_size = 32
lr = 0.2
momentum = 0.9
scheduler = "plateau"
plateau_patience = 0
plateau_factor = 0.5
augment = "flip-crop"
label_smoothing = 0.1
clip_norm = 1.0
threads = 1
[algorithm]
name = "fedavg"
server_lr = 0.5
weighting = "uniform"
[rounds]
rounds = 2
cohort = 2
[evaluation]
workers = "all"
""",
    # A biased chain, whose residual goes from round to round, and a random one.
    "topk": digits_recipe("parity", rounds=3, more='[wire]\nuplink = "topk:0.05|int8"'),
    # Momentum correction: a worker keeps what it is made of beside the residual.
    "dgc": digits_recipe(
        "parity", rounds=3, more='[wire]\nuplink = "topk:0.05|int8"\nmomentum = 0.9'
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
async def test_deployed_and_simulated_runs_give_bit_identical_versions(
    name: str, tmp_path: Path
) -> None:
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(RECIPES[name])
        with fleet(running.address, 2, tmp_path):
            run = await running.finished(run_id)
        assert run.reason == ""
        deployed = state_of_version(running.store, "parity")
        rounds = (await running.show(run_id)).rounds

    simulation = simulate(parse_recipe(RECIPES[name]))

    assert simulation.outcome == "completed"
    for kind in Kind:
        assert deployed.vector(kind).tobytes() == simulation.state.vector(kind).tobytes()
    last = simulation.rounds[-1]
    assert last.evaluation is not None
    assert rounds[-1].evaluation.correct == last.evaluation.correct
    assert {k: v.correct for k, v in rounds[-1].worker_evaluations.items()} == {
        k: v.correct for k, v in last.worker_evaluations.items()
    }
