"""Who is asked: workers that carry a tag, and those with the largest losses."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import (
    Running,
    ScriptedWorker,
    initial_of,
    running_coordinator,
    tiny_recipe,
    update_for,
)

from fedfleet.errors import RecipeInvalid
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2


async def connect(running: Running, tags: dict[str, tuple[str, ...]]) -> dict[str, ScriptedWorker]:
    workers = {name: ScriptedWorker(running, name) for name in tags}
    for name, worker in workers.items():
        await worker.connect(tags=tags[name])
    return workers


async def cohort_of(running: Running, run_id: str) -> list[str]:
    version = running.store.registry.versions("tiny")[0]
    assert version.run_id == run_id
    return list(version.metrics["workers"])


def loss(assignment: pb.Assignment, mean: float, samples: int) -> dict[str, object]:
    """A report over examples of one class, all answered right."""
    counts = [samples] + [0] * 9
    evaluation = types_pb2.Evaluation(
        samples=samples,
        loss_sum=mean * samples,
        correct=samples,
        top5=samples,
        class_samples=counts,
        class_correct=counts,
        class_predicted=counts,
    )
    return {
        "evaluation": pb.EvaluationReport(
            assignment_id=assignment.assignment_id, evaluation=evaluation
        )
    }


async def test_only_workers_with_a_tag_of_the_recipe_are_asked(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=4, more='tags = ["jetson", "lab"]')
    tags = {"a": ("jetson", "old"), "b": (), "c": ("lab",), "d": ("pi",)}
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, tags)
        run_id = await running.submit(recipe)
        for name in ("a", "c"):
            assignment = await workers[name].assignment()
            await workers[name].upload(update_for(assignment, name, initial_of(recipe), 1.0))
        run = await running.finished(run_id)

        assert run.reason == ""
        assert await cohort_of(running, run_id) == ["a", "c"]


async def test_worker_that_comes_back_with_a_tag_is_asked(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1, more='tags = ["jetson"]')
    async with running_coordinator(tmp_path) as running:
        await connect(running, {"a": ()})
        await running.submit(recipe)

        workers = await connect(running, {"a": ("jetson",)})

        assert (await workers["a"].assignment()).round == 1


async def test_run_without_a_tagged_worker_fails_by_naming_the_tag(tmp_path: Path) -> None:
    recipe = tiny_recipe(more='tags = ["jetson"]\ndeadline_s = 0.2\nattempts = 1')
    async with running_coordinator(tmp_path) as running:
        await connect(running, {"a": (), "b": ("pi",)})

        run = await running.finished(await running.submit(recipe))

        assert run.code == "QUORUM_NOT_MET"
        assert "0 workers that carry a tag of jetson ready" in run.reason


async def test_cohort_is_of_those_with_the_largest_losses(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        workers=4,
        more='min_workers = 4\nselection = "power-of-choice"\ncandidates = 4\nloss = "full"',
    )
    losses = {"a": 0.5, "b": 3.0, "c": 1.0}
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, dict.fromkeys("abcd", ()))
        run_id = await running.submit(recipe)
        for name, worker in workers.items():
            probe = await worker.assignment()
            assert probe.kind == pb.ASSIGNMENT_KIND_PROBE
            # One over no example is none: it would be the largest, or the smallest, of all.
            samples = 2 if name in losses else 0
            await worker.send(**loss(probe, losses.get(name, 0.0), samples))
        for name in ("b", "c"):
            assignment = await workers[name].assignment()
            assert assignment.kind == pb.ASSIGNMENT_KIND_TRAIN
            await workers[name].upload(update_for(assignment, name, initial_of(recipe), 1.0))
        run = await running.finished(run_id)

        assert run.reason == ""
        assert await cohort_of(running, run_id) == ["b", "c"]


def test_simulated_run_asks_only_workers_with_a_tag() -> None:
    recipe = parse_recipe(tiny_recipe(workers=5, rounds=3, more='tags = ["jetson", "lab"]'))
    tags = {"worker-1": ("jetson",), "worker-3": ("pi",), "worker-4": ("x", "lab")}

    found = simulate(recipe, tags=tags)

    assert found.outcome == "completed"
    assert [one.workers for one in found.rounds] == [("worker-1", "worker-4")] * 3


def test_simulated_run_without_enough_tagged_workers_is_refused() -> None:
    recipe = parse_recipe(tiny_recipe(workers=5, more='tags = ["jetson"]'))

    with pytest.raises(RecipeInvalid) as caught:
        simulate(recipe, tags={"worker-1": ("jetson",)})

    assert caught.value.message.startswith(
        "rounds.tags = jetson: of the 5 simulated workers 1 carry one of them, a round needs 2"
    )
