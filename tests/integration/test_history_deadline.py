"""A deadline that came of the history holds over a restart of the coordinator."""

from __future__ import annotations

from pathlib import Path

from harness import ScriptedWorker, initial_of, running_coordinator, tiny_recipe, update_for

RECIPE = tiny_recipe(
    rounds=2, more='deadline_s = 100.0\ndeadline = "history"\nmin_deadline_s = 20.0'
)


async def test_round_waits_as_long_after_a_restart_as_its_cohort_was_given(tmp_path: Path) -> None:
    initial = initial_of(RECIPE)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(RECIPE)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        first = [await worker.assignment() for worker in workers]
        for worker, assignment in zip(workers, first, strict=True):
            await worker.upload(update_for(assignment, worker.worker_id, initial, 1.0))
        second = [await worker.assignment() for worker in workers]
    async with running_coordinator(tmp_path) as running:
        back = ScriptedWorker(running, "worker-0")
        await back.connect()
        again = await back.assignment()
        event = await running.until(run_id, "cohort_selected", 2)

    # Nobody was seen before the first round; in the second, tenths of a second come to the floor.
    assert all(90.0 < assignment.deadline_s <= 100.0 for assignment in first)
    assert all(15.0 < assignment.deadline_s <= 20.0 for assignment in second)
    assert (again.round, again.assignment_id) == (2, second[0].assignment_id)
    assert 15.0 < again.deadline_s <= 20.0
    assert '"deadline_s": 20.0' in event.fields_json
