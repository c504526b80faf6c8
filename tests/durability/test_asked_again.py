"""What has a receipt is not asked for again, however the two messages fall."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from harness import (
    PATIENCE_S,
    ScriptedWorker,
    initial_of,
    running_coordinator,
    tiny_recipe,
    update_for,
)

from fedfleet_coordinator.workshop import Workshop


async def test_assignment_is_not_pushed_when_its_update_came_while_it_was_made_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(rounds=2)
    initial = initial_of(recipe)
    began, goes_on = threading.Event(), threading.Event()
    goes_on.set()
    start_of = Workshop.start_of

    def held(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name.startswith("compute"):  # updates are checked in another
            began.set()
            assert goes_on.wait(PATIENCE_S)
        return start_of(*args, **kwargs)

    monkeypatch.setattr(Workshop, "start_of", held)
    async with running_coordinator(tmp_path) as running:
        await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        first = [await worker.assignment() for worker in workers]
        workers[0].leave()
        began.clear()
        goes_on.clear()

        # It dials again with a finished update, so its assignment is about to be pushed again.
        again = ScriptedWorker(running, "worker-0")
        await again.connect((first[0].assignment_id,))
        while not began.is_set():
            await running.show(first[0].run_id)  # each look is a call to the coordinator
        await again.upload(update_for(first[0], "worker-0", initial, 1.0))
        goes_on.set()
        await workers[1].upload(update_for(first[1], "worker-1", initial, 1.0))
        pushed = await again.assignment()

    assert pushed.round == 2
