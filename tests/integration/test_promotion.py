"""The recipe's gates on a real coordinator: which versions go to work, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Running,
    ScriptedWorker,
    digits_recipe,
    initial_of,
    running_coordinator,
    state_of_version,
    update_for,
)

from fedfleet.data.shard import load_examples
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.batches import Batches
from fedfleet.training.device import resolve_device
from fedfleet.types import Array, ModelState

GATES = "[promote]\nmax_drop = 0.02\nmax_class_drop = 0.1\nmin_class_samples = 5\n"


def recipe_of(rounds: int, *, name: str = "digits", gates: str = GATES) -> str:
    return digits_recipe(name, hidden=(), workers=1, cohort=1, rounds=rounds) + gates


def fitted(recipe_text: str) -> Array:
    """Trainable parameters that answer the digits well: ridge regression onto the classes."""
    recipe = parse_recipe(recipe_text)
    examples = load_examples(recipe.data, "train", seed=recipe.seed, shard=0, data_dir=None)
    card = card_of(recipe)
    batches = Batches(examples, card.inputs, 10, resolve_device("cpu"))
    images, labels = batches.take(slice(None))
    x = batches.normalise(images).flatten(1).double().numpy()
    x = np.hstack([x, np.ones((len(x), 1))])
    y = np.eye(10)[labels.numpy()]
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y) * 5
    vector: Array = np.concatenate([weights[:-1].T.ravel(), weights[-1]]).astype(np.float32)
    return vector


async def train(worker: ScriptedWorker, start: ModelState, wanted: Array) -> None:
    """Answer the next assignment so that the next version has these parameters."""
    assignment = await worker.assignment()
    delta = wanted - start.trainable
    await worker.upload(update_for(assignment, worker.worker_id, start, delta))


def verdicts(running: Running, run_id: str) -> list[dict[str, Any]]:
    entries = running.store.journal.entries(run_id)
    return [dict(entry.fields) for entry in entries if entry.kind == "version_judged"]


def alias(running: Running, name: str, model: str = "digits") -> int | None:
    found = running.store.registry.aliases(model).get(name)
    return found.number if found else None


async def test_only_versions_that_pass_the_gates_go_to_work(tmp_path: Path) -> None:
    recipe = recipe_of(4)
    good = fitted(recipe)
    # As good over all, but blind to the last class: its bias is far below the others'.
    blind = good.copy()
    blind[-1] -= 100
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        state = initial_of(recipe)
        for round, wanted in enumerate((good, -good, blind, good * 1.01), start=1):
            await train(worker, state, wanted)
            await running.until(run_id, "version_judged", round)
            state = state_of_version(running.store, "digits")
        await running.finished(run_id)
        judged = verdicts(running, run_id)
        production, previous = alias(running, "production"), alias(running, "previous")
        audit = running.store.audit.records()
        deeds = [deed for deed in audit if deed.action == "promote"]
        version = running.store.registry.version("digits", 4)

    assert [(one["version"], one["promoted"]) for one in judged] == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
    ]
    assert "the measure against the current version is" in judged[1]["reason"]
    assert "class 9 is 0, " in judged[2]["reason"]
    assert (production, previous) == (4, 1)
    assert [deed.actor for deed in deeds] == ["coordinator/gates"] * 2
    assert version.lineage["algorithm"] == "fedavg"
    assert version.lineage["cohort"] == 1
    assert len(version.lineage["recipe"]) == 64


async def test_another_runs_version_is_measured_on_this_runs_examples(tmp_path: Path) -> None:
    first, second = recipe_of(1, gates=""), recipe_of(1)
    good = fitted(second)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        await running.submit(first)
        await train(worker, initial_of(first), good)
        runs = running.store.journal.runs()
        await running.finished(runs[0].run_id)
        running.store.registry.set_alias("digits", "production", 1)
        run_id = await running.submit(second)
        await train(worker, initial_of(second), np.zeros_like(good))
        await running.finished(run_id)
        judged = verdicts(running, run_id)

    assert [(one["promoted"], one["against"]) for one in judged] == [(False, 1)]


async def test_a_version_that_cannot_be_compared_is_left_to_people(tmp_path: Path) -> None:
    other = recipe_of(1, gates="").replace('dataset = "digits"', 'dataset = "synthetic"')
    recipe = recipe_of(1)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(other)
        state = initial_of(other)
        await train(worker, state, state.trainable)
        await running.finished(run_id)
        running.store.registry.set_alias("digits", "production", 1)
        run_id = await running.submit(recipe)
        await train(worker, initial_of(recipe), fitted(recipe))
        await running.finished(run_id)
        judged = verdicts(running, run_id)

    assert judged[0]["promoted"] is False
    assert "promote one by hand" in judged[0]["reason"]


async def test_a_version_is_judged_after_a_restart_and_once(tmp_path: Path) -> None:
    recipe = recipe_of(2)
    good = fitted(recipe)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        await train(worker, initial_of(recipe), good)
        await running.until(run_id, "version_judged", 1)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        state = state_of_version(running.store, "digits")
        await train(worker, state, good * 1.01)
        await running.finished(run_id)
        judged = verdicts(running, run_id)

    assert [one["version"] for one in judged] == [1, 2]


async def test_old_versions_make_room_but_not_the_one_at_work(tmp_path: Path) -> None:
    recipe = recipe_of(5)
    good = fitted(recipe)
    async with running_coordinator(tmp_path, keep_versions=2) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        state = initial_of(recipe)
        # The first goes to work, the others are worse.
        for round in range(1, 6):
            await train(worker, state, good if round == 1 else -good * round)
            await running.until(run_id, "version_judged", round)
            state = state_of_version(running.store, "digits")
        await running.finished(run_id)
        versions = running.store.registry.versions("digits")
        kept = [v.number for v in versions if v.retired_at_s is None]
        sizes = [running.store.blobs.size(v.digest) is not None for v in versions]

    assert kept == [5, 4, 1]
    assert sizes == [True, True, False, False, True]
