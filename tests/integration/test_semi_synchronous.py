"""Real workers train until the round's period ends, and none is waited for beyond it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import process, running_coordinator

from fedfleet.v1 import control_service_pb2 as pb

PERIOD_S = 4.0
RECIPE = f"""
name = "periods"
seed = 5
[model]
architecture = "mlp"
hidden = [32]
[data]
dataset = "digits"
partition = "iid"
workers = 2
[training]
epochs = 20000
threads = 1
[rounds]
rounds = 2
cohort = 2
mode = "semi-synchronous"
deadline_s = {PERIOD_S}
[evaluation]
workers = "none"
"""


@pytest.mark.slow
async def test_workers_send_what_they_have_when_the_period_ends(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "state") as running:
        with ExitStack() as stack:
            for i in range(2):
                settings = {
                    "FEDFLEET_COORDINATOR": running.address,
                    "FEDFLEET_WORKER_ID": f"worker-{i}",
                    "FEDFLEET_SHARD": str(i),
                    "FEDFLEET_STATE_DIR": str(tmp_path / f"worker-{i}"),
                    "FEDFLEET_OPS_PORT": "0",
                }
                log = tmp_path / f"worker-{i}.log"
                stack.enter_context(process(log, "-m", "fedfleet_worker", **settings))
            await running.connected(2)
            run_id = await running.submit(RECIPE)
            run = await running.finished(run_id)
            rounds = (await running.show(run_id)).rounds

    assert (run.state, run.code) == (pb.RUN_STATE_COMPLETED, "")
    assert [one.updates for one in rounds] == [2, 2]
    for one in rounds:
        assert PERIOD_S / 2 < one.duration_s < PERIOD_S + 1.0
        # The mean of the shares of the most that they may train.
        assert 0 < one.metrics["worker.partial"] < 1
