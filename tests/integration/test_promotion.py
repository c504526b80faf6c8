"""The recipe's gates on a real coordinator: which versions go to work, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    digits_recipe,
    initial_of,
    running_coordinator,
    state_of_version,
    update_for,
)
from torch import nn

from fedfleet import plugins
from fedfleet.data.shard import load_examples
from fedfleet.errors import SchemaMismatch, StoreFull, StoreUnavailable
from fedfleet.models.card import ModelCard
from fedfleet.models.config import ModelConfig
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.store.open import open_store
from fedfleet.store.protocols import AliasRecord, Entry, VersionRecord
from fedfleet.training.batches import Batches
from fedfleet.training.device import resolve_device
from fedfleet.training.measuring import is_finite_on_golden
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.types import MAP50, Array, InputSpec, ModelState
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.weights import encode_state
from fedfleet_coordinator import promoting, workshop

DETECTOR = """
name = "shapes"
seed = 3
kind = "detection"
[model]
architecture = "ssd_tiny"
width = 0.25
[data]
dataset = "shapes"
samples = 8
image_size = 32
partition = "iid"
workers = 1
[training]
threads = 1
[rounds]
rounds = 3
cohort = 1
[promote]
"""
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
    assert [(deed.fields["version"], deed.fields["previous"]) for deed in deeds] == [
        (1, None),
        (4, 1),
    ]
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


async def test_a_detector_is_held_to_its_precision_in_every_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(DETECTOR)
    state = initial_state(card_of(recipe), derive(recipe.seed, "initial"))
    async with running_coordinator(tmp_path) as running:
        registry = running.store.registry
        read = registry.version

        def as_before_there_were_scores(model: str, number: int) -> VersionRecord:
            version = read(model, number)
            if number != 2:
                return version
            noted = dict(version.metrics["evaluation"])
            noted.pop("scores", None)
            noted |= {"correct": noted["samples"], "class_correct": noted["class_samples"]}
            return replace(version, metrics={**version.metrics, "evaluation": noted})

        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(DETECTOR)
        await train(worker, state, state.trainable)
        await running.until(run_id, "version_judged", 1)
        monkeypatch.setattr(registry, "version", as_before_there_were_scores)
        for _ in range(2):
            await train(worker, state, state.trainable)
        await running.finished(run_id)
        judged = verdicts(running, run_id)
        precisions = [read("shapes", n).metrics["evaluation"]["scores"][MAP50] for n in (1, 2, 3)]

    # The second's record is measured again, as a candidate and as what the third is held to.
    assert [(one["promoted"], one["against"]) for one in judged] == [
        (True, None),
        (True, 1),
        (True, 2),
    ]
    assert [one["gates"][1]["found"] for one in judged] == precisions


async def test_a_fault_between_the_moves_of_the_two_aliases_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(2)
    good = fitted(recipe)
    async with running_coordinator(tmp_path) as running:
        registry, faults = running.store.registry, iter([True])
        set_alias = registry.set_alias

        def full_once(
            model: str, alias: str, number: int, expected_revision: int | None = None
        ) -> AliasRecord:
            if alias == "previous" and next(faults, False):
                raise StoreFull("no room on the disk; free some")
            return set_alias(model, alias, number, expected_revision)

        monkeypatch.setattr(registry, "set_alias", full_once)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        await train(worker, initial_of(recipe), good)
        await running.until(run_id, "version_judged", 1)
        await train(worker, state_of_version(running.store, "digits"), good * 1.01)
        await running.finished(run_id)
        judged = verdicts(running, run_id)
        names = alias(running, "production"), alias(running, "previous")
        moves = [event.alias for event in registry.events(0) if event.alias == "production"]

    assert next(faults, None) is None
    assert [(one["version"], one["promoted"], one["against"]) for one in judged] == [
        (1, True, None),
        (2, True, 1),
    ]
    assert names == (2, 1)
    assert len(moves) == 2


async def test_a_version_is_judged_when_the_run_is_stopped_before_its_round_closes(
    tmp_path: Path,
) -> None:
    recipe = recipe_of(2) + '[evaluation]\nworkers = "all"\nworkers_on = "test"\n'
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        await train(worker, initial_of(recipe), fitted(recipe))
        asked = await worker.assignment()  # and never answered
        judged_before = verdicts(running, run_id)
        request = control_pb.StopRunRequest(run_id=run_id)
        await running.control.StopRun(request, timeout=PATIENCE_S)
        run = await running.finished(run_id)
        judged = verdicts(running, run_id)
        production = alias(running, "production")

    assert (asked.kind, judged_before) == (pb.ASSIGNMENT_KIND_EVALUATE, [])
    assert run.state == control_pb.RUN_STATE_STOPPED
    assert [(one["version"], one["promoted"]) for one in judged] == [(1, True)]
    assert production == 1


def misfit(inputs: InputSpec, num_classes: int) -> nn.Module:
    """A plug-in's network that fails when it is asked."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3, num_classes))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": ModelConfig(architecture="misfit", options={})}, "RuntimeError"),
        ({"kind": "detection"}, "of another kind"),
        (
            {
                "model": ModelConfig(architecture="misfit", options={}),
                "inputs": InputSpec(channels=1, height=9, width=8, mean=(0.0,), std=(1.0,)),
            },
            "other inputs",
        ),
    ],
)
async def test_a_version_that_fails_when_it_is_measured_fails_no_run(
    change: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "names", lambda group: ("misfit",))
    monkeypatch.setattr(plugins, "load", lambda group, name: misfit)
    recipe = recipe_of(1)
    card = replace(card_of(parse_recipe(recipe)), **change)
    state = initial_state(replace(card, kind="classification"), 0)
    async with running_coordinator(tmp_path) as running:
        put_to_work(running, card, state)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        await train(worker, initial_of(recipe), fitted(recipe))
        run = await running.finished(run_id)
        judged = verdicts(running, run_id)

    assert (run.state, run.reason) == (control_pb.RUN_STATE_COMPLETED, "")
    assert [one["promoted"] for one in judged] == [False]
    assert why in judged[0]["reason"]
    assert "promote one by hand" in judged[0]["reason"]


def put_to_work(running: Running, card: ModelCard, state: ModelState) -> None:
    """Add a version of no run of this fleet, which ``production`` names."""
    blob = encode_state(state)
    version = VersionRecord(
        model="digits",
        number=1,
        digest=running.store.blobs.put(blob),
        size_bytes=len(blob),
        schema=state.schema,
        run_id="",
        round=0,
        parent=None,
        created_at_s=0.0,
        card=card.to_json(),
        metrics={},
    )
    running.store.registry.add(version, aliases=("production",))


async def test_a_commit_reads_no_journal_and_measures_another_runs_version_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(3)
    good = fitted(recipe)
    measured, read = [], []
    async with running_coordinator(tmp_path) as running:
        journal, measure = running.store.journal, workshop.measure_version
        entries = journal.entries

        def counted_measure(*args: Any) -> Any:
            measured.append(args)
            return measure(*args)

        def counted_entries(run_id: str, **part: int) -> Sequence[Entry]:
            if not part:  # who watches reads what is new
                read.append(run_id)
            return entries(run_id, **part)

        card, state = card_of(parse_recipe(recipe)), initial_of(recipe)
        put_to_work(running, card, replace(state, trainable=good))
        monkeypatch.setattr(workshop, "measure_version", counted_measure)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        assignment = await worker.assignment()
        monkeypatch.setattr(journal, "entries", counted_entries)
        await worker.upload(update_for(assignment, worker.worker_id, state, -good))
        for round in (2, 3):
            await train(worker, state, -good * round)
        await running.until(run_id, "run_finished")
        reads = len(read)
        judged = verdicts(running, run_id)

    assert [(one["against"], one["promoted"]) for one in judged] == [(1, False)] * 3
    assert (len(measured), reads) == (1, 0)


async def test_a_rollback_between_the_move_and_the_verdict_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(2)
    good = fitted(recipe)
    async with running_coordinator(tmp_path) as running:
        registry, journal, faults = running.store.registry, running.store.journal, iter([True])
        append = journal.append

        def moved_back_and_away(entry: Entry) -> Entry:
            is_second = entry.kind == "version_judged" and entry.fields["version"] == 2
            if is_second and next(faults, False):
                registry.set_alias("digits", "production", 1)
                raise StoreUnavailable("the store is away for a moment")
            return append(entry)

        monkeypatch.setattr(journal, "append", moved_back_and_away)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        await train(worker, initial_of(recipe), good)
        await running.until(run_id, "version_judged", 1)
        await train(worker, state_of_version(running.store, "digits"), good * 1.01)
        run = await running.finished(run_id)
        judged = verdicts(running, run_id)
        moves = [event.number for event in registry.events() if event.alias == "production"]
        deeds = [deed for deed in running.store.audit.records() if deed.action == "promote"]

    assert run.state == control_pb.RUN_STATE_COMPLETED
    assert [(one["version"], one["promoted"]) for one in judged] == [(1, True), (2, False)]
    assert judged[1]["reason"] == promoting.MOVED_SINCE
    assert moves == [1, 2, 1]
    assert len(deeds) == 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "golden batch (OutOfMemoryError)"),
        (ImportError("a plug-in's part"), "golden batch (ImportError)"),
        (SchemaMismatch("other tensors"), "golden batch (other tensors)"),
    ],
)
async def test_a_fault_in_a_gate_fails_the_version_and_not_the_run(
    error: Exception, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(card: ModelCard, state: ModelState) -> bool:
        raise error

    monkeypatch.setattr(promoting, "is_finite_on_golden", broken)
    run, judged = await judged_run(tmp_path)

    assert (run.state, run.reason) == (control_pb.RUN_STATE_COMPLETED, "")
    assert [one["promoted"] for one in judged] == [False]
    assert why in judged[0]["reason"]


async def test_a_fault_of_the_store_in_a_gate_is_none_of_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([True])

    def away_once(card: ModelCard, state: ModelState) -> bool:
        if next(faults, False):
            raise StoreUnavailable("the store is away for a moment")
        return is_finite_on_golden(card, state)

    monkeypatch.setattr(promoting, "is_finite_on_golden", away_once)
    run, judged = await judged_run(tmp_path)

    assert next(faults, None) is None
    assert run.state == control_pb.RUN_STATE_COMPLETED
    assert [(one["version"], one["promoted"]) for one in judged] == [(1, True)]


async def test_a_version_whose_answers_are_not_finite_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function's own test has such weights; an update may not hold them at once."""
    monkeypatch.setattr(promoting, "is_finite_on_golden", lambda card, state: False)
    run, judged = await judged_run(tmp_path)

    assert run.state == control_pb.RUN_STATE_COMPLETED
    assert [one["promoted"] for one in judged] == [False]
    assert judged[0]["reason"] == "finite answers to the golden batch"


async def test_a_version_with_the_classes_in_another_order_is_not_compared(tmp_path: Path) -> None:
    card = card_of(parse_recipe(recipe_of(1)))
    run, judged = await judged_run(tmp_path, at_work=replace(card, classes=card.classes[::-1]))

    assert run.state == control_pb.RUN_STATE_COMPLETED
    assert [(one["promoted"], one["against"]) for one in judged] == [(False, 1)]
    assert "it has other classes" in judged[0]["reason"]


async def test_an_alias_that_somebody_sets_meanwhile_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same version even: who did that has seen it."""
    with open_store(f"sqlite:{tmp_path}") as store:

        def set_meanwhile(card: ModelCard, state: ModelState) -> bool:
            store.registry.set_alias("digits", "production", 1)
            return is_finite_on_golden(card, state)

        monkeypatch.setattr(promoting, "is_finite_on_golden", set_meanwhile)
        run, judged = await judged_run(tmp_path, at_work=card_of(parse_recipe(recipe_of(1))))
        moves = [event.number for event in store.registry.events() if event.alias == "production"]

    assert run.state == control_pb.RUN_STATE_COMPLETED
    assert [one["promoted"] for one in judged] == [False]
    assert "revision" in judged[0]["reason"]
    assert moves == [1, 1]


async def judged_run(
    folder: Path, *, at_work: ModelCard | None = None
) -> tuple[control_pb.Run, list[dict[str, Any]]]:
    """A run of one round with a good version, and its verdicts.

    Args:
        at_work: card of an untrained version that ``production`` names before.
    """
    recipe = recipe_of(1)
    start = initial_of(recipe)
    async with running_coordinator(folder) as running:
        if at_work is not None:
            put_to_work(running, at_work, start)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(recipe)
        await train(worker, start, fitted(recipe))
        return await running.finished(run_id), verdicts(running, run_id)
