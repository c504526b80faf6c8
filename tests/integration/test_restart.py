"""Killed processes: the run goes on in the same round and ends with the same bytes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from harness import (
    Running,
    ScriptedWorker,
    fleet,
    free_port,
    initial_of,
    process,
    raises_code,
    running_coordinator,
    state_of_version,
    tiny_recipe,
    update_for,
    watch_until,
)

from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.channel import open_channel
from fedfleet.sim.driver import simulate
from fedfleet.store.open import open_store
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

RECIPE = """
name = "restart"
seed = 11
[model]
architecture = "mlp"
hidden = [16]
[data]
dataset = "digits"
partition = "iid"
workers = 2
[training]
epochs = 4
threads = 1
[rounds]
rounds = 4
cohort = 2
deadline_s = 60
[evaluation]
workers = "all"
"""


@pytest.mark.slow
async def test_coordinator_killed_in_a_round_resumes_it_and_workers_outlive_it(
    tmp_path: Path,
) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_STORE": f"sqlite:{tmp_path / 'state'}",
    }
    log = tmp_path / "coordinator.log"
    with fleet(address, 2, tmp_path):
        # One update is in, the other is not: the middle of a round.
        with process(log, "-m", "fedfleet_coordinator", **settings):
            async with open_channel(address) as channel:
                request = pb.SubmitRunRequest(recipe=RECIPE)
                control = ControlServiceStub(channel)
                response = await control.SubmitRun(request, timeout=60, wait_for_ready=True)
            run_id = response.run.run_id
            await watch_until(address, run_id, "update_accepted", 2)
        with process(log, "-m", "fedfleet_coordinator", **settings):
            await watch_until(address, run_id, "round_committed", 3)
        with process(log, "-m", "fedfleet_coordinator", **settings) as last:
            await watch_until(address, run_id, "run_finished", 4)
            last.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(last.wait, 30) == 0

    with open_store(settings["FEDFLEET_STORE"]) as store:
        run = store.journal.run(run_id)
        entries = store.journal.entries(run_id)
        state = state_of_version(store, "restart")
        versions = store.registry.versions("restart")
    simulation = simulate(parse_recipe(RECIPE))

    assert (run.state.value, run.reason) == ("completed", "")
    assert [version.round for version in versions] == [4, 3, 2, 1]
    accepted = [e.fields["assignment_id"] for e in entries if e.kind == "update_accepted"]
    assert len(accepted) == len(set(accepted)) == 8
    assert state.trainable.tobytes() == simulation.state.trainable.tobytes()


@pytest.mark.slow
@pytest.mark.timeout(300)  # three coordinators start, one after the other
async def test_coordinator_restarted_in_a_round_loses_no_update(tmp_path: Path) -> None:
    """As an upgrade does it: SIGTERM while workers train and upload, exit 0, the next process."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_ENROLL_PORT": "0",
        "FEDFLEET_STORE": f"sqlite:{tmp_path / 'state'}",
    }
    log = tmp_path / "coordinator.log"
    with fleet(address, 2, tmp_path):
        run_id = ""
        for kind, round in (("update_accepted", 2), ("cohort_selected", 3), ("run_finished", 4)):
            with process(log, "-m", "fedfleet_coordinator", **settings) as child:
                if not run_id:
                    async with open_channel(address) as channel:
                        request = pb.SubmitRunRequest(recipe=RECIPE)
                        control = ControlServiceStub(channel)
                        response = await control.SubmitRun(request, timeout=60, wait_for_ready=True)
                    run_id = response.run.run_id
                await watch_until(address, run_id, kind, round)
                child.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(child.wait, 30) == 0, log.read_text()[-4000:]

    with open_store(settings["FEDFLEET_STORE"]) as store:
        entries = store.journal.entries(run_id)
        updates = [store.journal.updates(run_id, round) for round in range(1, 5)]
        state = state_of_version(store, "restart")
    accepted = [e.fields["assignment_id"] for e in entries if e.kind == "update_accepted"]
    committed = [e.round for e in entries if e.kind == "round_committed"]

    assert committed == [1, 2, 3, 4]
    assert len(accepted) == len(set(accepted)) == 8
    assert [len(one) for one in updates] == [2, 2, 2, 2]
    simulation = simulate(parse_recipe(RECIPE))
    assert state.trainable.tobytes() == simulation.state.trainable.tobytes()


async def test_update_with_a_receipt_is_not_asked_for_again_after_a_restart(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(rounds=2)
    initial = initial_of(recipe)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        for worker in workers:
            await worker.connect()
        assignments = [await worker.assignment() for worker in workers]
        delivered = update_for(assignments[0], "worker-0", initial, 1.0)
        await workers[0].upload(delivered)

    async with running_coordinator(tmp_path) as running:
        workers = [ScriptedWorker(running, f"worker-{i}") for i in range(2)]
        held = [assignment.assignment_id for assignment in assignments]
        welcomes = [
            await worker.connect((assignment_id,))
            for worker, assignment_id in zip(workers, held, strict=True)
        ]
        # The first may have missed its receipt, so it may ask for it again; it counts once.
        assert [list(w.wanted_assignment_ids) for w in welcomes] == [[held[0]], [held[1]]]
        assert (await workers[0].upload(delivered)).duplicate
        again = await workers[1].assignment()
        assert again.assignment_id == held[1]
        await workers[1].upload(update_for(again, "worker-1", initial, 3.0))
        # The second round asks both.
        for worker in workers:
            assert (await worker.assignment()).round == 2
        state = state_of_version(running.store, "tiny", 1)
        await running.control.StopRun(pb.StopRunRequest(run_id=run_id), timeout=10)
        gone = update_for(assignments[1], "worker-1", initial, 5.0)
        await raises_code("ASSIGNMENT_CLOSED", workers[1].upload(gone))

    delta = state.trainable - initial.trainable
    assert abs(delta - 2.0).max() < 1e-6


@pytest.mark.slow
async def test_worker_killed_after_training_delivers_its_update_after_its_restart(
    tmp_path: Path,
) -> None:
    """The coordinator is away when the worker finishes; the update waits on the worker's disk."""
    port = free_port()
    state = tmp_path / "worker"
    recipe = RECIPE.replace("workers = 2", "workers = 1").replace("cohort = 2", "cohort = 1")
    recipe = recipe.replace("rounds = 4", "rounds = 1").replace("epochs = 4", "epochs = 40")
    settings = {
        "FEDFLEET_COORDINATOR": f"127.0.0.1:{port}",
        "FEDFLEET_WORKER_ID": "worker-0",
        "FEDFLEET_SHARD": "0",
        "FEDFLEET_STATE_DIR": str(state),
        "FEDFLEET_OPS_PORT": "0",
    }
    with process(tmp_path / "worker.log", "-m", "fedfleet_worker", **settings):
        async with running_coordinator(tmp_path / "state", port=port) as running:
            run_id = await running.submit(recipe)
            while not await _is_training(running):
                pass  # each look is a call to the coordinator
        for _ in range(600):
            if list((state / "updates").glob("*/header.json")):
                break
            await asyncio.sleep(0.1)  # the file system has no event to wait for
        else:
            raise AssertionError((tmp_path / "worker.log").read_text())
    with process(tmp_path / "worker.log", "-m", "fedfleet_worker", **settings):
        async with running_coordinator(tmp_path / "state", port=port) as running:
            run = await running.finished(run_id)
            version = state_of_version(running.store, "restart")

    assert run.code == ""
    assert "update_delivered" in (tmp_path / "worker.log").read_text()
    assert list((state / "updates").iterdir()) == []
    reference = simulate(parse_recipe(recipe)).state
    assert version.trainable.tobytes() == reference.trainable.tobytes()


async def _is_training(running: Running) -> bool:
    response = await running.control.ListWorkers(pb.ListWorkersRequest(), timeout=10)
    return any(worker.progress_ratio > 0 for worker in response.workers)
