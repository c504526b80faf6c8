"""A run whose workers all rest waits for them, and says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    initial_of,
    running_coordinator,
    tiny_recipe,
    update_for,
)

from fedfleet.v1 import control_service_pb2 as control_pb

RECIPE = tiny_recipe(workers=1, cohort=1, more="attempts = 1\ndeadline_s = 1.5")
REASON = "outside its hours"


async def deadlines(running: Running, run_id: str, count: int) -> None:
    """Wait until so many of the run's have passed, and it is not over."""
    request = control_pb.WatchRunRequest(run_id=run_id)
    async for response in running.control.WatchRun(request, timeout=PATIENCE_S):
        assert response.event.kind != "run_finished"
        count -= response.event.kind == "deadline_passed"
        if not count:
            return


async def test_run_outlasts_its_attempts_while_its_workers_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect(pause_reason=REASON)
        run_id = await running.submit(RECIPE)
        await deadlines(running, run_id, 1)
    async with running_coordinator(tmp_path) as running:
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect(pause_reason=REASON)
        await deadlines(running, run_id, 2)
        await worker.send(heartbeat={})
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, "worker-0", initial_of(RECIPE), 1.0))
        run = await running.finished(run_id)

    assert run.code == ""
    waits = [one for one in caplog.records if one.msg == "run_waits_for_resting_workers"]
    assert len(waits) >= 2
    assert (waits[0].__dict__["ready"], waits[0].__dict__["resting"]) == (0, 1)
