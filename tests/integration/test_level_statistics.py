"""Levels of a model with batch normalisation: their statistics are measured by the fleet, come with
the version, and serve it at their width.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    fleet,
    initial_of,
    levels_of_version,
    raises_code,
    running_coordinator,
    state_of_version,
    update_for,
)
from safetensors import safe_open
from safetensors.numpy import save
from serving import png, serving, wait_served

from fedfleet.cli.main import main
from fedfleet.data.shard import Examples, load_examples
from fedfleet.errors import VersionInvalid
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.store.open import open_store
from fedfleet.training.submodels import SubModels
from fedfleet.training.trainers import Trainers
from fedfleet.types import FloatVector, Kind
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.version_folder import WEIGHTS
from fedfleet.wire.weights import encode_state
from fedfleet_inference_api.servable import load_servable

RECIPE = """
name = "widths"
seed = 4
[model]
architecture = "cnn"
width = {width}
hidden = 32
norm = "batch"
[data]
dataset = "digits"
partition = "iid"
workers = {workers}
[training]
lr = 0.02
momentum = 0.9
batch_size = 32
epochs = 2
threads = 1
[algorithm]
name = "heterofl"
[levels]
rates = [1.0, 0.5, 0.25]
shares = {shares}
[rounds]
rounds = {rounds}
cohort = {workers}
[evaluation]
workers = "all"
"""
TRAINED = RECIPE.format(width=0.75, workers=5, shares=[0.4, 0.2, 0.4], rounds=8)


# A fleet that trains, and another one that serves


@pytest.mark.slow
async def test_version_is_served_at_the_width_of_a_level_with_its_own_statistics(
    tmp_path: Path,
) -> None:
    recipe = parse_recipe(TRAINED)
    async with running_coordinator(tmp_path / "made") as running:
        with fleet(running.address, 5, tmp_path):
            run = await running.finished(await running.submit(TRAINED))
        assert run.reason == ""
        shown = (await running.show(run.run_id)).rounds
        levels = levels_of_version(running.store, "widths")
        folder = tmp_path / "exported"
        await command(running, "export", "widths", "latest", "--to", str(folder))
    async with running_coordinator(tmp_path / "serves") as other:
        await command(other, "import", str(folder), "--alias", "production")

    # Statistics travel up, and not down: workers start from the state alone.
    simulation = simulate(recipe)
    assert levels == {level: one.tobytes() for level, one in simulation.levels.items()}
    assert sorted(levels) == ["b", "c"]
    downs = [sum(one.bytes_down for one in each.traffic.values()) for each in shown]
    assert downs == [each.bytes_down for each in simulation.rounds]
    test = load_examples(recipe.data, "test", seed=recipe.seed, shard=None, data_dir=None)
    trainers = Trainers(card_of(recipe), recipe.training, recipe.evaluation, recipe.levels)
    assert trainers.models is not None
    part = trainers.models.slice("c").cut(simulation.state)
    own = replace(part, statistics=by_plain_means(folder / WEIGHTS, "c"))
    expected = trainers.at("c").evaluate(own, test)
    wrong = trainers.at("c").evaluate(part, test)
    whole = trainers.at("a").evaluate(simulation.state, test)
    with open_store(f"sqlite:{tmp_path / 'serves'}") as store:
        version = store.registry.version("widths", 1)
        with serving(store, serve_level="c", serve_alias="production") as (service, caller):
            wait_served(service, version)
            answered = asked(caller, test)
    right = int((answered == test.labels).sum())
    sys.stdout.write(
        f"right of {len(test)}: level a {whole.correct}, level c with its own statistics {right}, "
        f"with those of level a {wrong.correct}\n"
    )
    assert right == expected.correct
    assert right > 0.8 * len(test)
    assert right > wrong.correct + 0.2 * len(test)


def by_plain_means(path: Path, level: str) -> FloatVector:
    """A level's statistics, without this package, as docs/registry.md has it."""
    with safe_open(path, "np") as file:
        levels = json.loads(file.metadata()["fedfleet.levels"])
    return np.frombuffer(base64.b64decode(levels[level]), "<f4").copy()


def asked(caller: httpx.Client, test: Examples) -> np.ndarray:
    """The class that the service answers for each example, shape (N,)."""
    found = []
    for start in range(0, len(test), 32):
        pictures = [png(image[0]) for image in test.images[start : start + 32]]
        files = [("file", (f"{place}.png", data)) for place, data in enumerate(pictures)]
        answer = caller.post("/predict/batch", params={"k": 1}, files=files)
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert answer.json()["model"]["level"] == "c"
        found += [one["predictions"][0]["index"] for one in results]
    return np.array(found)


async def command(running: Running, *argv: str) -> None:
    environ = {"FEDFLEET_COORDINATOR": running.address}
    assert await asyncio.to_thread(main, ("models", *argv), environ) == 0


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[" * 30_000,
        '{"b": 1}',
        '{"a": "AACAPw=="}',
        '{"b": "AACAfw=="}',
        json.dumps({"b": "AAAA" * 4000}),
    ],
)
async def test_import_of_statistics_that_are_none_is_refused_and_leaves_nothing(
    text: str, tmp_path: Path
) -> None:
    state = initial_of(SCRIPTED)
    data = save(state.tensors(), {"fedfleet.levels": text})
    header = control_pb.ImportHeader(
        model="bought",
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        schema_json=json.dumps(state.schema.to_json()),
        card_json=json.dumps(card_of(parse_recipe(SCRIPTED)).to_json()),
        lineage_json='{"levels": {"a": 1.0, "b": 0.5}}',
    )
    parts = [
        control_pb.ImportVersionRequest(header=header),
        control_pb.ImportVersionRequest(chunk=data),
    ]
    async with running_coordinator(tmp_path) as running:
        call = running.control.ImportVersion(iter(parts), timeout=PATIENCE_S)
        await raises_code("SCHEMA_MISMATCH" if len(data) < 40_000 else "INVALID_INPUT", call)
        assert running.store.registry.versions("bought") == []
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


# Workers whose every message the test writes

SCRIPTED = RECIPE.format(width=0.1, workers=2, shares=[1.0, 0.0, 0.0], rounds=1)
HONEST, OTHER = "worker-0", "worker-1"


class Round:
    """Two workers of the whole width have trained, and are asked for statistics."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.initial = initial_of(SCRIPTED)
        self.workers = {name: ScriptedWorker(running, name) for name in (HONEST, OTHER)}
        self.queries: dict[str, pb.Assignment] = {}
        recipe = parse_recipe(SCRIPTED)
        assert recipe.levels is not None
        models = SubModels(card_of(recipe), recipe.levels.rates)
        self.sizes = {
            level: models.schema(level).elements(Kind.STATISTIC) for level in models.levels[1:]
        }

    async def begin(self) -> str:
        run_id = await self.running.submit(SCRIPTED)
        for worker in self.workers.values():
            await worker.connect()
        for name, worker in self.workers.items():
            update = update_for(await worker.assignment(), name, self.initial, 0.0)
            await worker.upload(update)
        for name, worker in self.workers.items():
            self.queries[name] = await worker.assignment()
            assert self.queries[name].kind == pb.ASSIGNMENT_KIND_QUERY
        return run_id

    def level(self, level: str, value: float, more: int = 0) -> pb.LevelStatistics:
        return pb.LevelStatistics(level=level, statistics=[value] * (self.sizes[level] + more))

    async def answer(
        self, name: str, levels: Sequence[pb.LevelStatistics] = (), samples: int = 10
    ) -> None:
        report = pb.StatisticsReport(
            assignment_id=self.queries[name].assignment_id,
            samples=samples,
            statistics=self.initial.statistics.tolist(),
            counters=self.initial.counters.tolist(),
            levels=levels,
        )
        await self.workers[name].send(statistics=report)


async def test_level_has_what_those_workers_measured_who_know_of_levels(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        scripted = Round(running)
        run_id = await scripted.begin()
        await scripted.answer(HONEST, [scripted.level("c", 0.5)])
        await scripted.answer(OTHER, [scripted.level("c", 2.5), scripted.level("b", 1.5)], 30)
        await running.until(run_id, "round_committed")
        levels = levels_of_version(running.store, "widths")

    expected = {"b": 1.5, "c": 2.0}
    assert levels == {
        level: np.full(scripted.sizes[level], value, np.float32).tobytes()
        for level, value in expected.items()
    }


async def test_version_of_workers_that_know_of_no_levels_is_served_at_its_whole_width(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path) as running:
        scripted = Round(running)
        run_id = await scripted.begin()
        await scripted.answer(HONEST)
        await scripted.answer(OTHER)
        await running.until(run_id, "round_committed")
        store = running.store
        version = store.registry.versions("widths")[0]
        data = store.blobs.read(version.digest)
        served = load_servable(store.blobs, version, "latest")
        with pytest.raises(VersionInvalid, match="static_norm = true"):
            load_servable(store.blobs, version, "latest", level="c")

    assert served.level == "a"
    assert b"fedfleet.levels" not in data


@pytest.mark.parametrize(
    "wrong",
    [
        lambda scripted: [scripted.level("b", 1.0), scripted.level("b", 1.0)],
        lambda scripted: [scripted.level("b", 1.0, more=1)],
        lambda scripted: [scripted.level("c", float("nan"))],
        lambda scripted: [scripted.level("c", -1.0)],
        lambda scripted: [pb.LevelStatistics(level="a", statistics=[1.0])],
        lambda scripted: [pb.LevelStatistics(level="x" * 1000)],
    ],
)
async def test_statistics_of_levels_that_cannot_be_do_not_count(wrong, tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        scripted = Round(running)
        run_id = await scripted.begin()
        await scripted.answer(OTHER, wrong(scripted))
        failed = json.loads((await running.until(run_id, "assignment_failed")).fields_json)
        await scripted.answer(HONEST, [scripted.level("c", 0.25)])
        await running.until(run_id, "round_committed")
        levels = levels_of_version(running.store, "widths")

    assert failed["code"].startswith("UPDATE_")
    assert len(failed["reason"]) < 200
    assert levels == {"c": np.full(scripted.sizes["c"], 0.25, np.float32).tobytes()}


async def test_workers_evaluate_the_state_alone_also_after_a_restart(tmp_path: Path) -> None:
    """The coordinator ends between the commit and the evaluations."""
    async with running_coordinator(tmp_path) as running:
        scripted = Round(running)
        run_id = await scripted.begin()
        for name in scripted.workers:
            await scripted.answer(name, [scripted.level("b", 1.0), scripted.level("c", 2.0)])
        before = [await worker.assignment() for worker in scripted.workers.values()]
        state = state_of_version(running.store, "widths")
        version = running.store.registry.versions("widths")[0]
    async with running_coordinator(tmp_path) as running:
        workers = {name: ScriptedWorker(running, name) for name in (HONEST, OTHER)}
        for worker in workers.values():
            await worker.connect()
        after = [await worker.assignment() for worker in workers.values()]
        data = await workers[HONEST].download(after[0])
        assert await workers[OTHER].download(after[1]) == data
        for worker, given in zip(workers.values(), after, strict=True):
            failure = pb.AssignmentFailure(assignment_id=given.assignment_id, code="DATA_EMPTY")
            await worker.send(failure=failure)
        run = await running.finished(run_id)
        left = {path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()}

    assert run.code == ""
    plain = encode_state(state)
    assert data == plain
    assert version.digest != hashlib.sha256(plain).hexdigest()
    for given in (*before, *after):
        assert given.kind == pb.ASSIGNMENT_KIND_EVALUATE
        assert given.base_digest == hashlib.sha256(plain).hexdigest()
        assert given.base_bytes == len(plain)
    assert version.size_bytes > len(plain)
    assert left == {version.digest}  # what only the run's workers needed is gone
