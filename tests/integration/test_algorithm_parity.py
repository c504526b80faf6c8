"""Algorithms with memory: deployed as simulated, bit for bit, and across a restart.

One coordinator and one fleet carry out all recipes, one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import (
    PATIENCE_S,
    Running,
    fleet,
    free_port,
    levels_of_version,
    running_coordinator,
    state_of_version,
)

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.outcome import Simulation
from fedfleet.store.open import open_store
from fedfleet.types import Kind, ModelState
from fedfleet.v1 import control_service_pb2 as pb

# Its first matrix is large enough to be sparsified.
MLP = 'architecture = "mlp"\nhidden = [40]'
# Batch normalisation behind each of two convolutions.
CNN = 'architecture = "cnn"\nwidth = 0.1\nhidden = 16\nnorm = "batch"'
RECIPE = """
name = "{name}"
seed = 4
[model]
{model}
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.5
workers = 3
[training]
lr = 0.05
threads = 1
{training}
[rounds]
rounds = {rounds}
cohort = 2
min_workers = 3
[algorithm]
{algorithm}
{more}
"""
# Batch normalisation, of which each level has a part.
LEVELS = "[levels]\nrates = [1.0, 0.5, 0.3]\n"
WIDE = 'architecture = "cnn"\nwidth = 0.3\nhidden = 48\nnorm = "batch"'
LOSSY = '[wire]\nuplink = "topk:0.1|int8"\ndownlink = "int8"'


def recipe(
    name: str,
    algorithm: str,
    *,
    model: str = MLP,
    training: str = "",
    more: str = "",
    rounds: int = 4,
) -> str:
    return RECIPE.format(
        name=name,
        model=model,
        training=training,
        algorithm=algorithm,
        more=more,
        rounds=rounds,
    )


# One worker more than a round asks: who stayed away comes back with what it kept before. A cohort
# is drawn from all three, also after a restart.
RECIPES = {
    "fedavgm": recipe("fedavgm", 'name = "fedavgm"'),
    "fedadam": recipe("fedadam", 'name = "fedadam"'),
    "scaffold-one": recipe("scaffold-one", 'name = "scaffold"\noption = "I"'),
    "scaffold-two": recipe("scaffold-two", 'name = "scaffold"', training="momentum = 0.9"),
    "scaffold-lossy": recipe("scaffold-lossy", 'name = "scaffold"', more=LOSSY),
    "feddyn": recipe("feddyn", 'name = "feddyn"\nalpha = 0.1'),
    "fedbn": recipe("fedbn", 'name = "fedbn"', model=CNN, more='[evaluation]\nworkers = "all"'),
    "fednova": recipe("fednova", 'name = "fednova"', training="epochs = 2\nmomentum = 0.5"),
    "fedgw": recipe("fedgw", 'name = "fedgw"', training="epochs = 2"),
    "heterofl": recipe(
        "heterofl",
        'name = "heterofl"',
        model=WIDE,
        training="mask_absent = true",
        more=LEVELS + '[evaluation]\nworkers = "all"',
    ),
    # A worker goes from level to level: what it keeps of one is of no use to the next.
    "heterofl-lossy": recipe(
        "heterofl-lossy",
        'name = "heterofl"',
        model=WIDE,
        more=LEVELS + 'assignment = "dynamic"\n' + LOSSY,
        rounds=6,
    ),
    "fedrolex": recipe(
        "fedrolex", 'name = "heterofl"', model=MLP, more=LEVELS + 'submodel = "rolling"\n'
    ),
    "fedavg-levels": recipe("fedavg-levels", 'name = "fedavg"', more=LEVELS + LOSSY),
}
# Whose last round had a worker of the whole width, who measures the narrower levels too.
MEASURED = {"heterofl"}


@dataclass(frozen=True)
class Deployed:
    """What a deployed run left.

    Args:
        levels: the statistics of the state's narrower slices.
        rounds: for each round, what was right on the test split, and what each worker reported.
    """

    reason: str
    state: ModelState
    levels: Mapping[str, bytes]
    rounds: list[tuple[int, Mapping[str, tuple[int, float]]]]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Deployed]:
    return asyncio.run(_deploy(tmp_path_factory.mktemp("parity")))


async def _deploy(folder: Path) -> Mapping[str, Deployed]:
    done = {}
    async with running_coordinator(folder / "state") as running:
        with fleet(running.address, 3, folder):
            for name, text in RECIPES.items():
                run = await running.finished(await running.submit(text))
                rounds = (await running.show(run.run_id)).rounds
                done[name] = Deployed(
                    run.reason,
                    state_of_version(running.store, name),
                    levels_of_version(running.store, name),
                    [
                        (
                            one.evaluation.correct,
                            {
                                worker: (found.correct, found.loss_sum)
                                for worker, found in one.worker_evaluations.items()
                            },
                        )
                        for one in rounds
                    ],
                )
    return done


def assert_same(state: ModelState, levels: Mapping[str, bytes], simulation: Simulation) -> None:
    assert (simulation.outcome, simulation.reason) == ("completed", "")
    for kind in Kind:
        assert state.vector(kind).tobytes() == simulation.state.vector(kind).tobytes()
    assert levels == {level: found.tobytes() for level, found in simulation.levels.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_deployed_and_simulated_algorithms_agree_in_every_bit(
    name: str, deployed: Mapping[str, Deployed]
) -> None:
    found = deployed[name]

    simulation = simulate(parse_recipe(RECIPES[name]))

    assert found.reason == ""
    assert_same(found.state, found.levels, simulation)
    assert sorted(found.levels) == (["b", "c"] if name in MEASURED else [])
    assert found.rounds == [
        (
            one.evaluation.correct if one.evaluation else 0,
            {
                worker: (evaluation.correct, evaluation.loss_sum)
                for worker, evaluation in one.worker_evaluations.items()
            },
        )
        for one in simulation.rounds
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "algorithm", "more"),
    [
        ("dyn", 'name = "feddyn"\nalpha = 0.1', ""),
        ("scaffold", 'name = "scaffold"', ""),
        ("levels", 'name = "heterofl"', LEVELS + LOSSY),
    ],
)
async def test_run_goes_on_after_a_restart_with_the_state_and_memory_of_the_last_round(
    name: str, algorithm: str, more: str, tmp_path: Path
) -> None:
    model = WIDE if more else MLP
    text = recipe(name, algorithm, model=model, training="epochs = 3", more=more, rounds=6)
    port = free_port()
    state = tmp_path / "state"
    with fleet(f"127.0.0.1:{port}", 3, tmp_path):
        async with running_coordinator(state, port=port) as running:
            run_id = await running.submit(text)
            await _until(running, run_id, "update_accepted", 3)
        with open_store(f"sqlite:{state}") as store:
            between = store.journal.run(run_id)
            versions = store.registry.versions(name)
            commits = [
                entry.fields
                for entry in store.journal.entries(run_id)
                if entry.kind == "round_committed"
            ]
            committed = [fields.get("state_digest", "") for fields in commits]
        async with running_coordinator(state, port=port) as running:
            run = await running.finished(run_id)
            found = state_of_version(running.store, name)
            levels = levels_of_version(running.store, name)

    assert 2 <= between.round < 6, "the coordinator was to end in the middle"
    # FedDyn publishes the cohort's mean and goes on from another state, which is kept beside it. A
    # version that comes with its levels' statistics has other bytes than what workers start from.
    published = [version.digest for version in reversed(versions)]
    assert all(digest not in published for digest in committed if digest)
    assert [bool(digest) for digest in committed] == [
        name == "dyn" or "levels" in fields for fields in commits
    ]
    assert any("levels" in fields for fields in commits) == (name == "levels")
    assert run.reason == ""
    assert_same(found, levels, simulate(parse_recipe(text)))


async def _until(running: Running, run_id: str, kind: str, round: int) -> None:
    request = pb.WatchRunRequest(run_id=run_id)
    async for response in running.control.WatchRun(request, timeout=PATIENCE_S):
        if (response.event.kind, response.event.round) == (kind, round):
            return
    raise AssertionError(f"the run ended without {kind} in round {round}")
