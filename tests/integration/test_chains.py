"""Chains and lanes: deployed as simulated, bit for bit, across crashes; no blob is left over."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    Running,
    ScriptedWorker,
    fleet,
    free_port,
    initial_of,
    levels_of_version,
    process,
    raises_code,
    running_coordinator,
    state_of_version,
    update_for,
    watch_until,
)

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.channel import open_channel
from fedfleet.sim.driver import simulate
from fedfleet.sim.outcome import Simulation
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Entry
from fedfleet.types import Kind, ModelState
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet.wire.updates import EncodedUpdate
from fedfleet.wire.weights import decode_state, encode_state

RECIPE = """
name = "chains"
seed = {seed}
[model]
architecture = "mlp"
hidden = [40]
[data]
dataset = "digits"
partition = "dirichlet"
alpha = {alpha}
workers = {workers}
[training]
lr = 0.05
threads = 1
epochs = {epochs}
[rounds]
rounds = {rounds}
cohort = {cohort}
min_workers = {workers}
{more}
[algorithm]
{algorithm}
"""
# Two groups of the five: of two and of three workers.
FEDSEQ = """
name = "fedseq"
share = 1.0
min_examples = 100000
max_workers = 2
grouping_epochs = 2
exemplars = 2
interval = {interval}
"""
EVALUATING = '[evaluation]\nworkers = "all"'
LOSSY = '[wire]\nuplink = "topk:0.1|int8"\ndownlink = "int8"'


def fedseq(interval: int, *, rounds: int = 4, more: str = "", tables: str = EVALUATING) -> str:
    return (
        RECIPE.format(
            seed=4,
            alpha=0.3,
            workers=5,
            epochs=1,
            rounds=rounds,
            cohort=5,
            more=more,
            algorithm=FEDSEQ.format(interval=interval),
        )
        + tables
    )


def fedgwc(*, rounds: int = 9, more: str = "", tables: str = EVALUATING) -> str:
    """Splits in the middle: the losses are of very different labels."""
    return (
        RECIPE.format(
            seed=6,
            alpha=0.1,
            workers=6,
            epochs=2,
            rounds=rounds,
            cohort=3,
            more=more,
            algorithm='name = "fedgwc"\ntolerance = 1.0',
        )
        + tables
    )


RECIPES = {
    "chains": (5, fedseq(1)),
    "bank": (5, fedseq(3, rounds=6)),
    "clusters": (6, fedgwc()),
    "lossy-chains": (5, fedseq(1, tables=LOSSY)),
    "lossy-bank": (5, fedseq(3, rounds=6, tables=LOSSY)),
}


def blobs_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}


def assert_same(state: ModelState, simulation: Simulation) -> None:
    assert (simulation.outcome, simulation.reason) == ("completed", "")
    for kind in Kind:
        assert state.vector(kind).tobytes() == simulation.state.vector(kind).tobytes()


def assert_nothing_is_left(folder: Path) -> None:
    """Versions, and no blob that only the run's workers needed."""
    with open_store(f"sqlite:{folder}") as store:
        versions = {one.digest for one in store.registry.versions("chains")}
    assert blobs_in(folder) == versions


def drawn(entries: list[Entry], name: str) -> list[Any]:
    """A field of each round's plan."""
    return [one.fields[name] for one in entries if one.kind == "cohort_selected"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
async def test_deployed_and_simulated_runs_agree_in_every_bit(name: str, tmp_path: Path) -> None:
    workers, recipe = RECIPES[name]
    async with running_coordinator(tmp_path / "state") as running:
        with fleet(running.address, workers, tmp_path):
            run = await running.finished(await running.submit(recipe))
        assert run.reason == ""
        deployed = state_of_version(running.store, "chains")
        shown = (await running.show(run.run_id)).rounds
        entries = running.store.journal.entries(run.run_id)

    simulation = simulate(parse_recipe(recipe))

    assert_same(deployed, simulation)
    assert [
        {worker: (one.correct, one.loss_sum) for worker, one in r.worker_evaluations.items()}
        for r in shown
    ] == [
        {worker: (one.correct, one.loss_sum) for worker, one in r.worker_evaluations.items()}
        for r in simulation.rounds
    ]
    assert [r.bytes_up for r in shown] == [r.bytes_up for r in simulation.rounds]
    downs = [sum(one.bytes_down for one in r.traffic.values()) for r in shown]
    assert downs == [r.bytes_down for r in simulation.rounds]
    # What describes a worker is in its update, not in what is said of a version.
    assert not [name for r in shown for name in r.metrics if name.startswith("algorithm.")]
    assert [dict(r.metrics) for r in shown] == [r.metrics for r in simulation.rounds]
    if name == "clusters":
        lanes = drawn(entries, "lanes")
        assert lanes[0] == [] != lanes[-1], "no split in the middle of the run"
        assert {len(set(one)) for one in lanes[-1:]} == {2}
    else:
        assert all(sorted(one) == [2, 3] for one in drawn(entries, "chain_lengths")[1:])
    if name.endswith("bank"):
        assert all(sorted(one) == ["0", "1"] for one in drawn(entries, "lanes")[1:])
    assert any(one.kind == "state_relayed" for one in entries)
    assert_nothing_is_left(tmp_path / "state")


# Crashes


# Levels are lanes too. Two workers of the whole width measure each version before it is published:
# the first answer of a round finds the other at work.
LEVELS = """
name = "chains"
seed = 4
[model]
architecture = "cnn"
width = 0.3
hidden = 48
norm = "batch"
[data]
dataset = "digits"
partition = "iid"
workers = 3
[training]
lr = 0.05
threads = 1
[algorithm]
name = "heterofl"
[levels]
rates = [1.0, 0.5]
shares = [0.67, 0.33]
[rounds]
rounds = 5
cohort = 3
[evaluation]
workers = "all"
[wire]
uplink = "topk:0.1|int8"
downlink = "int8"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chains", "update_accepted"),
        ("bank", "update_accepted"),
        ("clusters", "update_accepted"),
        ("levels", "statistics_reported"),
    ],
)
async def test_coordinator_killed_in_the_middle_ends_with_the_same_bytes(
    name: str, kind: str, tmp_path: Path
) -> None:
    """Killed twice: at an event of the third round, and of the fifth or last."""
    workers, recipe = {**RECIPES, "levels": (3, LEVELS)}[name]
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_STORE": f"sqlite:{tmp_path / 'state'}",
    }
    log = tmp_path / "coordinator.log"
    rounds = parse_recipe(recipe).rounds.rounds
    with fleet(address, workers, tmp_path):
        with process(log, "-m", "fedfleet_coordinator", **settings):
            run_id = await submit_to(address, recipe)
            await watch_until(address, run_id, kind, 3)
        with process(log, "-m", "fedfleet_coordinator", **settings):
            await watch_until(address, run_id, kind, rounds - 1)
        with process(log, "-m", "fedfleet_coordinator", **settings) as last:
            await watch_until(address, run_id, "run_finished", rounds)
            last.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(last.wait, 30) == 0

    with open_store(settings["FEDFLEET_STORE"]) as store:
        run = store.journal.run(run_id)
        entries = store.journal.entries(run_id)
        state = state_of_version(store, "chains")
        levels = levels_of_version(store, "chains")
    assert (run.state.value, run.reason) == ("completed", "")
    accepted = [e.fields["assignment_id"] for e in entries if e.kind == "update_accepted"]
    assert len(accepted) == len(set(accepted))
    simulation = simulate(parse_recipe(recipe))
    assert_same(state, simulation)
    assert levels == {level: found.tobytes() for level, found in simulation.levels.items()}
    assert sorted(levels) == (["b"] if name == "levels" else [])
    assert_nothing_is_left(tmp_path / "state")


async def submit_to(address: str, recipe: str) -> str:
    async with open_channel(address) as channel:
        request = control_pb.SubmitRunRequest(recipe=recipe)
        control = ControlServiceStub(channel)
        response = await control.SubmitRun(request, timeout=60, wait_for_ready=True)
    return str(response.run.run_id)


# Workers whose every message the test writes

# Groups of a worker's classifier's change: no public examples, and three to a chain.
SCRIPTED = """
name = "chains"
seed = 4
[model]
architecture = "mlp"
hidden = []
[data]
dataset = "synthetic"
partition = "iid"
workers = 3
[training]
threads = 1
[rounds]
rounds = 2
cohort = 3
quorum = 2
deadline_s = 60
attempts = 1
[algorithm]
name = "fedseq"
share = 1.0
min_examples = 100000
approximator = "classifier"
grouping = "random"
"""


def described(encoded: EncodedUpdate) -> EncodedUpdate:
    """An update of the first round."""
    for i in range(64):
        encoded.header.metrics[f"algorithm.fedseq_{i:04d}"] = 0.5
    return encoded


async def grouped(running: Running) -> dict[str, ScriptedWorker]:
    """Three workers in one group, the first round behind them."""
    workers = {f"worker-{i}": ScriptedWorker(running, f"worker-{i}") for i in range(3)}
    initial = initial_of(SCRIPTED)
    for worker in workers.values():
        await worker.connect()
    for name, worker in workers.items():
        update = update_for(await worker.assignment(), name, initial, 0.0)
        await worker.upload(described(update))
    return workers


async def chain_of(running: Running, run_id: str) -> list[str]:
    """The order in which the second round calls them."""
    await running.until(run_id, "cohort_selected", 2)
    entries = running.store.journal.entries(run_id)
    (workers,) = drawn(entries, "workers")[1:]
    return list(workers)


async def test_worker_that_fails_is_left_out_and_the_next_starts_from_the_last_result(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(SCRIPTED)
        workers = await grouped(running)
        first, second, third = await chain_of(running, run_id)
        initial = initial_of(SCRIPTED)
        assignment = await workers[first].assignment()
        await workers[first].upload(update_for(assignment, first, initial, 1.0))
        failing = await workers[second].assignment()
        relayed = await workers[second].download(failing)
        failure = pb.AssignmentFailure(
            assignment_id=failing.assignment_id, code="DATA_EMPTY", message="none"
        )
        await workers[second].send(failure=failure)
        last = await workers[third].assignment()
        start = decode_state(initial.schema, await workers[third].download(last))
        # The very same state: nothing came to it.
        assert encode_state(start) == relayed
        np.testing.assert_allclose(start.trainable, initial.trainable + 1.0, rtol=1e-6)
        during = blobs_in(tmp_path / "state")
        assert last.base_digest in during
        await workers[third].upload(update_for(last, third, start, 2.0))
        run = await running.finished(run_id)
        state = state_of_version(running.store, "chains")

    assert run.code == ""
    np.testing.assert_allclose(state.trainable, initial.trainable + 3.0, rtol=1e-5)
    assert_nothing_is_left(tmp_path / "state")


async def test_restart_in_a_chain_offers_the_same_start_to_whoever_was_at_work(
    tmp_path: Path,
) -> None:
    initial = initial_of(SCRIPTED)
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(SCRIPTED)
        workers = await grouped(running)
        first, second, third = await chain_of(running, run_id)
        assignment = await workers[first].assignment()
        await workers[first].upload(update_for(assignment, first, initial, 1.0))
        before = await workers[second].assignment()
    async with running_coordinator(tmp_path / "state") as running:
        workers = {name: ScriptedWorker(running, name) for name in (second, third)}
        # A download that was under way goes on, before it is assigned again.
        data = await workers[second].download(before)
        np.testing.assert_allclose(
            decode_state(initial.schema, data).trainable, initial.trainable + 1.0, rtol=1e-6
        )
        for worker in workers.values():
            await worker.connect()
        again = await workers[second].assignment()
        assert (again.assignment_id, again.base_digest) == (
            before.assignment_id,
            before.base_digest,
        )
        await workers[second].upload(update_for(again, second, initial, 1.0))
        last = await workers[third].assignment()
        await workers[third].upload(update_for(last, third, initial, 1.0))
        run = await running.finished(run_id)
        state = state_of_version(running.store, "chains")

    assert run.code == ""
    np.testing.assert_allclose(state.trainable, initial.trainable + 3.0, rtol=1e-5)
    assert_nothing_is_left(tmp_path / "state")


async def test_update_from_another_start_than_the_chains_is_refused(tmp_path: Path) -> None:
    initial = initial_of(SCRIPTED)
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(SCRIPTED)
        workers = await grouped(running)
        first, second, _ = await chain_of(running, run_id)
        assignment = await workers[first].assignment()
        await workers[first].upload(update_for(assignment, first, initial, 1.0))
        own = await workers[second].assignment()
        update = update_for(own, second, initial, 1.0)
        update.header.base_digest = assignment.base_digest
        await raises_code("SCHEMA_MISMATCH", workers[second].upload(update))
