"""Selections that look back, or ask first: deployed they draw the cohorts of the simulator.

One coordinator and one fleet carry out all recipes, one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import PATIENCE_S, Running, fleet, free_port, running_coordinator, state_of_version

from fedfleet.rounds.history import split_history
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.store.open import open_store
from fedfleet.types import Kind, ModelState
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.weights import decode_arrays

# More workers than a round asks, all of them awaited: a cohort is drawn from all, also after a
# restart. Sizes and labels differ, so that it matters who is drawn.
RECIPE = """
name = "{name}"
seed = 4
[model]
architecture = "mlp"
hidden = [16]
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.5
workers = 5
[training]
lr = 0.05
epochs = {epochs}
threads = 1
[rounds]
rounds = 6
cohort = 2
min_workers = 5
{selection}
[algorithm]
name = "fedavgm"
{weighting}
[evaluation]
coordinator = false
"""
# No device is as fast as virtual time: durations must not count where the cohorts are compared.
OORT = 'selection = "oort"\npenalty = 0.0\nexploration = 0.5'
POWER = 'selection = "power-of-choice"\ncandidates = 3\nloss = '


def recipe(name: str, selection: str, weighting: str = "uniform", epochs: int = 1) -> str:
    return RECIPE.format(
        name=name, selection=selection, weighting=f'weighting = "{weighting}"', epochs=epochs
    )


RECIPES = {
    "oort": recipe("oort", OORT, epochs=2),
    "rpow-d": recipe("rpow-d", POWER + '"last"'),
    "cpow-d": recipe("cpow-d", POWER + '"sample"'),
    "pow-d": recipe("pow-d", POWER + '"full"'),
    "weighted": recipe("weighted", 'selection = "weighted"', "participation-samples"),
    "skewed": recipe("skewed", 'selection = "skewed"\nskew = 0.3', "participation"),
}


@dataclass(frozen=True)
class Deployed:
    """What a deployed run left: why it ended, its last version, its cohorts."""

    reason: str
    state: ModelState
    cohorts: list[list[str]]


async def result_of(running: Running, name: str, run_id: str) -> Deployed:
    run = await running.finished(run_id)
    versions = reversed(running.store.registry.versions(name))
    cohorts = [version.metrics["workers"] for version in versions]
    return Deployed(run.reason, state_of_version(running.store, name), cohorts)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Deployed]:
    return asyncio.run(_deploy(tmp_path_factory.mktemp("selection")))


async def _deploy(folder: Path) -> Mapping[str, Deployed]:
    async with running_coordinator(folder / "state") as running:
        with fleet(running.address, 5, folder):
            return {
                name: await result_of(running, name, await running.submit(text))
                for name, text in RECIPES.items()
            }


def assert_as_simulated(found: Deployed, text: str) -> None:
    simulation = simulate(parse_recipe(text))

    assert (found.reason, simulation.outcome, simulation.reason) == ("", "completed", "")
    assert found.cohorts == [list(one.workers) for one in simulation.rounds]
    for kind in Kind:
        assert found.state.vector(kind).tobytes() == simulation.state.vector(kind).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_deployed_run_draws_the_cohorts_of_the_simulator(
    name: str, deployed: Mapping[str, Deployed]
) -> None:
    assert_as_simulated(deployed[name], RECIPES[name])


@pytest.mark.slow
def test_selections_are_different_draws(deployed: Mapping[str, Deployed]) -> None:
    assert len({str(one.cohorts) for one in deployed.values()}) == len(RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "selection", "kind", "weighting"),
    [
        ("oort", OORT, "update_accepted", "uniform"),
        ("pow-d", POWER + '"full"', "probe_reported", "uniform"),
        ("skewed", 'selection = "skewed"\nskew = 0.3', "update_accepted", "participation"),
    ],
)
async def test_run_draws_the_same_cohorts_after_a_restart(
    name: str, selection: str, kind: str, weighting: str, tmp_path: Path
) -> None:
    text = recipe(name, selection, weighting, epochs=3)
    port = free_port()
    state = tmp_path / "state"
    with fleet(f"127.0.0.1:{port}", 5, tmp_path):
        async with running_coordinator(state, port=port) as running:
            run_id = await running.submit(text)
            await _until(running, run_id, kind, 4)
        if name == "oort":
            _check_history(state, run_id)
        async with running_coordinator(state, port=port) as running:
            found = await result_of(running, name, run_id)

    assert_as_simulated(found, text)


def _check_history(state: Path, run_id: str) -> None:
    """What the next cohort is drawn by is in the store, with times of the real clock."""
    with open_store(f"sqlite:{state}") as store:
        closed = store.journal.run(run_id).round
        blob = store.blobs.read(store.journal.memory_digest(run_id))
    memory, history = split_history(decode_arrays(blob))

    assert list(memory) == ["fedavgm.v"]
    assert len(history.utility) == closed >= 3
    assert sum(seen.asked for seen in history.seen.values()) == 2 * closed
    for seen in history.seen.values():
        assert 0 < seen.duration_s < PATIENCE_S
        assert seen.rms_loss >= seen.loss * 0.5 > 0
        assert seen.utility == seen.samples * seen.rms_loss


async def _until(running: Running, run_id: str, kind: str, round: int) -> None:
    request = pb.WatchRunRequest(run_id=run_id)
    async for response in running.control.WatchRun(request, timeout=PATIENCE_S):
        if (response.event.kind, response.event.round) == (kind, round):
            return
    raise AssertionError(f"the run ended without {kind} in round {round}")
