"""Faults at the worst moment: a call that is cut inside a journal write, a store that fails in the
middle of a run, a run that cannot be built. Nothing is lost, and the service goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    digits_recipe,
    initial_of,
    raises_code,
    running_coordinator,
    state_of_version,
    tiny_recipe,
    update_for,
)

from fedfleet.errors import StoreFull, TrainingFailed
from fedfleet.training.local import LocalTrainer
from fedfleet.types import Evaluation
from fedfleet.v1 import control_service_pb2 as pb


class Gate:
    """Holds a blocking call of the store until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, PATIENCE_S)


@contextmanager
def gated(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[Gate]:
    """Let the real method run, but only once the gate is open."""
    gate = Gate()
    real: Callable[..., Any] = getattr(owner, name)

    def held(*args: Any, **kwargs: Any) -> Any:
        gate.entered.set()
        assert gate.opened.wait(PATIENCE_S)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, held)
        try:
            yield gate
        finally:
            gate.opened.set()


@contextmanager
def failing_once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool]
) -> Iterator[threading.Event]:
    """Let one call of a method of the store find the disk full."""
    failed = threading.Event()
    real: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not failed.is_set() and when(*args, **kwargs):
            failed.set()
            raise StoreFull("no room on the disk; free some")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield failed


async def two_workers(running: Running) -> list[ScriptedWorker]:
    workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
    for worker in workers:
        await worker.connect()
    return workers


async def test_connection_cut_inside_the_journal_write_of_an_update_counts_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(more="attempts = 1\ndeadline_s = 20")
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = await two_workers(running)
        assignments = [await worker.assignment() for worker in workers]
        initial = initial_of(recipe)
        first = update_for(assignments[0], "worker-0", initial, 1.0)
        with gated(monkeypatch, running.store.journal, "accept_update") as gate:
            upload = asyncio.create_task(workers[0].upload(first))
            await gate.wait_entered()
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        assert (await workers[0].upload(first)).duplicate
        await workers[1].upload(update_for(assignments[1], "worker-1", initial, 3.0))
        run = await running.finished(run_id)
        state = state_of_version(running.store, "tiny")

    assert run.code == ""
    np.testing.assert_allclose(state.trainable - initial.trainable, 2.0, rtol=1e-6)


async def test_submission_cut_inside_its_write_is_queued_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        with gated(monkeypatch, running.store.journal, "create_run") as gate:
            submission = asyncio.create_task(running.submit(recipe))
            await gate.wait_entered()
            submission.cancel()
            await asyncio.gather(submission, return_exceptions=True)
        assert (await worker.assignment()).round == 1


@pytest.mark.parametrize("fault", ["cohort_selected", "commit"])
async def test_store_fault_in_a_run_only_delays_it(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe()
    async with running_coordinator(tmp_path) as running:
        store: Any = running.store
        owner, name = (store, "commit_round") if fault == "commit" else (store.journal, "append")

        def when(written: Any) -> bool:
            return fault == "commit" or written.kind == fault

        with failing_once(monkeypatch, owner, name, when) as failed:
            run_id = await running.submit(recipe)
            workers = await two_workers(running)
            initial = initial_of(recipe)
            for worker in workers:
                assignment = await worker.assignment()
                await worker.upload(update_for(assignment, worker.worker_id, initial, 1.0))
            run = await running.finished(run_id)
            assert failed.is_set()
        state = state_of_version(running.store, "tiny")

    assert (run.state, run.code) == (pb.RUN_STATE_COMPLETED, "")
    np.testing.assert_allclose(state.trainable - initial.trainable, 1.0, rtol=1e-6)


async def test_run_whose_model_cannot_be_built_fails_and_the_next_one_runs(
    tmp_path: Path,
) -> None:
    good = tiny_recipe(workers=1, cohort=1)
    bad = good.replace("hidden = []", f"hidden = [{1 << 20}, {1 << 20}]")  # 4 TB
    async with running_coordinator(tmp_path) as running:
        run = await running.finished(await running.submit(bad))
        assert (run.state, run.code) == (pb.RUN_STATE_FAILED, "INTERNAL")
        assert str(tmp_path) not in run.reason
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        run_id = await running.submit(good)
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, "worker-0", initial_of(good), 1.0))
        assert (await running.finished(run_id)).code == ""


async def test_aggregate_that_leaves_the_finite_numbers_is_not_published(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1) + '[algorithm]\nname = "fedavg"\nserver_lr = 1e38\n'
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, "worker-0", initial_of(recipe), 500.0))
        run = await running.finished(run_id)
        assert running.store.registry.versions("tiny") == []

    assert run.code == "UPDATE_NOT_FINITE"


async def test_evaluation_over_another_number_of_classes_is_not_taken(tmp_path: Path) -> None:
    from fedfleet.v1 import federation_service_pb2 as federation_pb
    from fedfleet.v1 import types_pb2

    recipe = tiny_recipe(workers=1, cohort=1) + '[evaluation]\nworkers = "all"\n'
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, "worker-0", initial_of(recipe), 1.0))
        assignment = await worker.assignment()
        odd = types_pb2.Evaluation(
            samples=1,
            correct=1,
            top5=1,
            class_samples=[1, 0, 0],
            class_correct=[1, 0, 0],
            class_predicted=[1, 0, 0],
        )
        report = federation_pb.EvaluationReport(
            assignment_id=assignment.assignment_id, evaluation=odd
        )
        await worker.send(evaluation=report)
        failed = await running.until(run_id, "assignment_failed")
        assert "3 classes, not 2" in failed.fields_json
        run = await running.finished(run_id)
        shown = await running.show(run_id)

    assert run.code == ""
    assert not shown.rounds[0].worker_evaluations


async def test_update_of_another_level_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(tmp_path) as running:
        await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        update = update_for(assignment, "worker-0", initial_of(recipe), 1.0)
        update.header.level = "e"
        await raises_code("UPDATE_INVALID", worker.upload(update))


async def test_restart_between_the_commit_and_the_clean_up_leaves_no_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(workers=1, cohort=1, rounds=2)
    async with running_coordinator(tmp_path) as running:
        await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        update = update_for(assignment, "worker-0", initial_of(recipe), 1.0)
        # As if killed right there: the clean-up never gets through.
        monkeypatch.setattr(running.store.blobs, "delete", lambda digest: None)
        await worker.upload(update)
        await worker.assignment()
        assert running.store.blobs.size(update.header.payload_digest)
    monkeypatch.undo()
    async with running_coordinator(tmp_path) as running:
        assert running.store.blobs.size(update.header.payload_digest) is None


async def test_watchers_end_when_the_coordinator_stops(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path, grace_s=30.0) as running:
        run_id = await running.submit(tiny_recipe())
        call = running.control.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=PATIENCE_S)
        assert (await call.read()).event.kind == "run_submitted"
        began = asyncio.get_running_loop().time()
        await asyncio.wait_for(running.coordinator.close(), 20)
        assert asyncio.get_running_loop().time() - began < 15


async def test_run_that_breaks_over_its_version_leaves_what_versions_need_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = digits_recipe("digits", hidden=(), workers=1, cohort=1, rounds=3)
    real = LocalTrainer.evaluate

    def second_fails(self: LocalTrainer, *args: Any, **options: Any) -> Evaluation:
        if running.store.registry.newest_number("digits"):
            raise TrainingFailed("the model's answers are not finite")
        return real(self, *args, **options)

    monkeypatch.setattr(LocalTrainer, "evaluate", second_fails)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        for start in (
            lambda: initial_of(recipe),
            lambda: state_of_version(running.store, "digits"),
        ):
            assignment = await worker.assignment()
            await worker.upload(update_for(assignment, "worker-0", start(), 1.0))
        run = await running.finished(run_id)
        versions = running.store.registry.versions("digits")

    left = {path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    assert (run.state, run.code) == (pb.RUN_STATE_FAILED, "TRAINING_FAILED")
    assert [one.number for one in versions] == [1]
    assert left == {versions[0].digest}
