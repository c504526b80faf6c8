"""A detector, two rounds: real gRPC with two workers and the simulator, bit for bit; and what the
coordinator measures of its versions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import fleet, running_coordinator, state_of_version

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.types import MAP50, Evaluation, Kind

RECIPE = """
name = "shapes"
seed = 3
kind = "detection"
[model]
architecture = "ssd_tiny"
width = 0.25
[data]
dataset = "shapes"
samples = 24
image_size = 64
partition = "iid"
workers = 2
[training]
batch_size = 4
optimizer = "adam"
lr = 0.002
augment = "flip-crop"
validation_fraction = 0.25
threads = 1
[algorithm]
name = "fedavg"
statistics = "pooled"
[rounds]
rounds = 2
cohort = 2
[evaluation]
workers = "all"
"""


@pytest.mark.slow
async def test_deployed_and_simulated_detectors_are_bit_identical(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(RECIPE)
        with fleet(running.address, 2, tmp_path):
            run = await running.finished(run_id)
        assert run.reason == ""
        deployed = state_of_version(running.store, "shapes")
        rounds = (await running.show(run_id)).rounds
        first, version = (running.store.registry.version("shapes", n) for n in (1, 2))

    simulation = simulate(parse_recipe(RECIPE))

    assert simulation.outcome == "completed"
    for kind in Kind:
        assert deployed.vector(kind).tobytes() == simulation.state.vector(kind).tobytes()
    last = simulation.rounds[-1]
    assert last.evaluation is not None
    assert rounds[-1].evaluation.class_predicted == list(last.evaluation.class_predicted)
    assert {k: v.samples for k, v in rounds[-1].worker_evaluations.items()} == {
        k: v.samples for k, v in last.worker_evaluations.items()
    }
    recorded = Evaluation.from_json(version.metrics["evaluation"])
    assert recorded.scores == pytest.approx(last.evaluation.scores)
    assert 0 <= recorded.scores[MAP50] <= 1
    assert MAP50 in first.metrics["evaluation"]["scores"]  # every version by the same measure
    assert json.loads(json.dumps(version.card))["kind"] == "detection"
