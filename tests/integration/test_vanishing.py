"""A third of the workers is killed in mid-run and never comes back: no round hangs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import Running, process, running_coordinator

from fedfleet.v1 import control_service_pb2 as pb

WORKERS, GONE = 7, 2  # 30 %, as near as seven come to it
ROUNDS, LOST = 5, 2
LONGEST_S = 60.0
RECIPE = f"""
name = "vanishing"
seed = 5
[model]
architecture = "mlp"
hidden = [32]
[data]
dataset = "digits"
partition = "iid"
workers = {WORKERS}
[training]
epochs = 60
threads = 1
[rounds]
rounds = {ROUNDS}
cohort = {WORKERS}
quorum = 3
min_workers = {WORKERS - GONE}
deadline_s = {LONGEST_S}
deadline = "history"
deadline_slack = 3.0
min_deadline_s = 8.0
[evaluation]
workers = "none"
"""


async def events_of(running: Running, run_id: str, kind: str) -> list[pb.RunEvent]:
    """Those of a kind, of a run that is over."""
    request = pb.WatchRunRequest(run_id=run_id)
    responses = running.control.WatchRun(request, timeout=30)
    return [one.event async for one in responses if one.event.kind == kind]


@pytest.mark.slow
async def test_rounds_finish_at_the_deadline_when_workers_are_killed_for_good(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "state") as running:
        with ExitStack() as stack:
            workers = []
            for i in range(WORKERS):
                settings = {
                    "FEDFLEET_COORDINATOR": running.address,
                    "FEDFLEET_WORKER_ID": f"worker-{i}",
                    "FEDFLEET_SHARD": str(i),
                    "FEDFLEET_STATE_DIR": str(tmp_path / f"worker-{i}"),
                    "FEDFLEET_OPS_PORT": "0",
                }
                log = tmp_path / f"worker-{i}.log"
                child = process(log, "-m", "fedfleet_worker", **settings)
                workers.append(stack.enter_context(child))
            await running.connected(WORKERS)
            run_id = await running.submit(RECIPE)
            await running.until(run_id, "cohort_selected", LOST)
            for worker in workers[:GONE]:
                worker.kill()
            run = await running.finished(run_id)
            rounds = (await running.show(run_id)).rounds
            cohorts = await events_of(running, run_id, "cohort_selected")
            committed = await events_of(running, run_id, "round_committed")

    assert (run.state, run.code) == (pb.RUN_STATE_COMPLETED, "")
    assert [one.round for one in rounds] == list(range(1, ROUNDS + 1))
    assert [one.round for one in cohorts] == list(range(1, ROUNDS + 1)), "a round was tried again"
    # The deadline is as long as the history of the cohort says, and is in the journal.
    given_s = [json.loads(one.fields_json)["deadline_s"] for one in cohorts]
    assert given_s[0] == LONGEST_S
    assert all(8.0 <= one < LONGEST_S for one in given_s[1:])
    lasted_s = [end.at_s - begin.at_s for begin, end in zip(cohorts, committed, strict=True)]
    # Who was killed is waited for until then, and nobody for longer.
    assert given_s[LOST - 1] <= lasted_s[LOST - 1] < given_s[LOST - 1] + 5.0
    assert rounds[LOST - 1].updates == WORKERS - GONE
    gone = {f"worker-{i}" for i in range(GONE)}
    for cohort, summary in list(zip(cohorts, rounds, strict=True))[LOST:]:
        assert gone.isdisjoint(json.loads(cohort.fields_json)["workers"])
        assert summary.updates == WORKERS - GONE
