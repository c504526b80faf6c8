"""Runs without a barrier: nobody waits, stale work counts less, nothing that was taken is lost."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    digits_recipe,
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

from fedfleet.errors import StoreFull, UpdateNotFinite
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.channel import open_channel
from fedfleet.sim.driver import simulate
from fedfleet.store.open import open_store
from fedfleet.types import Array, ModelState
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2 as federation_pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub
from fedfleet_coordinator.made import Made
from fedfleet_coordinator.workshop import Workshop


def recipe(algorithm: str, *, workers: int = 3, rounds: int = 3, cohort: int = 1) -> str:
    return tiny_recipe(
        workers=workers, rounds=rounds, cohort=cohort, more=f"[algorithm]\n{algorithm}\n"
    )


async def there(running: Running, *names: str) -> list[ScriptedWorker]:
    workers = [ScriptedWorker(running, name) for name in names]
    for worker in workers:
        await worker.connect()
    return workers


async def deliver(
    worker: ScriptedWorker, assignment: federation_pb.Assignment, state: ModelState, delta: float
) -> federation_pb.Receipt:
    return await worker.upload(update_for(assignment, worker.worker_id, state, delta))


def moved(running: Running, initial: ModelState, number: int) -> Array:
    """How far a version is from the start, in each element."""
    state = state_of_version(running.store, "tiny", number)
    return state.trainable.astype(np.float64) - initial.trainable


def blobs_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}


# No barrier


async def test_slow_worker_delays_no_version_and_its_stale_update_counts_less(
    tmp_path: Path,
) -> None:
    text = recipe('name = "fedbuff"', rounds=4)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        quick, slow = await there(running, "quick", "slow")
        begun = await slow.assignment()
        for round in (1, 2, 3):
            assignment = await quick.assignment()
            assert assignment.round == round
            await deliver(quick, assignment, initial, 1.0)
            await running.until(run_id, "round_committed", round)
        # The newest version is there for whoever delivers, and the old one for who still has it.
        assert (await quick.assignment()).round == 4
        assert await slow.download(begun)
        await deliver(slow, begun, initial, 8.0)
        run = await running.finished(run_id)
        steps = [moved(running, initial, number).max() for number in (1, 2, 3, 4)]
        versions = running.store.registry.versions("tiny")

    assert (run.code, begun.round) == ("", 1)
    # Of a staleness of 3: s = (1 + 3)^-.5.
    np.testing.assert_allclose(steps, [1.0, 2.0, 3.0, 3.0 + 8.0 / 2], rtol=1e-5)
    assert [version.metrics["workers"] for version in versions] == [["slow"], *[["quick"]] * 3]
    assert versions[0].metrics["staleness"] == [3]


async def test_updates_are_taken_and_places_filled_while_a_version_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    make_next = Workshop.make_next

    def held(*args: Any, **kwargs: Any) -> Made:
        made = make_next(*args, **kwargs)
        assert goes_on.wait(PATIENCE_S)
        return made

    monkeypatch.setattr(Workshop, "make_next", held)
    text = recipe('name = "fedbuff"', cohort=2, rounds=2)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        try:
            workers = await there(running, "one", "two", "three")
            begun = [await worker.assignment() for worker in workers]
            for worker, assignment in zip(workers, begun, strict=True):
                receipt = await deliver(worker, assignment, initial, 1.0)
                assert not receipt.duplicate
            again = [await worker.assignment() for worker in workers[:2]]
            committed = (await running.show(run_id)).run.round
        finally:
            goes_on.set()
        await running.until(run_id, "round_committed", 1)
        await deliver(workers[0], again[0], initial, 3.0)
        await running.finished(run_id)
        steps = [moved(running, initial, number).max() for number in (1, 2)]

    assert committed == 0
    assert [one.round for one in again] == [1, 1]
    assert again[0].assignment_id != begun[0].assignment_id
    np.testing.assert_allclose(steps, [1.0, 1.0 + (1 + 3) / 2 * 2**-0.5], rtol=1e-5)


async def test_version_that_cannot_be_made_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Made:
        raise UpdateNotFinite("the aggregate left the finite numbers")

    monkeypatch.setattr(Workshop, "make_next", fails)
    text = recipe('name = "fedbuff"')
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        (worker,) = await there(running, "one")
        await deliver(worker, await worker.assignment(), initial_of(text), 1.0)
        run = await running.finished(run_id)

    assert (run.state, run.code) == (pb.RUN_STATE_FAILED, UpdateNotFinite.code)


async def test_version_is_made_once_the_store_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_next, faults = Workshop.make_next, [StoreFull("no room"), StoreFull("no room")]

    def fails_twice(*args: Any, **kwargs: Any) -> Made:
        if faults:
            raise faults.pop()
        return make_next(*args, **kwargs)

    monkeypatch.setattr(Workshop, "make_next", fails_twice)
    text = recipe('name = "fedbuff"', rounds=1)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        (worker,) = await there(running, "one")
        await deliver(worker, await worker.assignment(), initial_of(text), 1.0)
        run = await running.finished(run_id)

    assert (run.state, faults) == (pb.RUN_STATE_COMPLETED, [])


async def test_buffer_is_divided_by_its_size_whoever_filled_it(tmp_path: Path) -> None:
    text = recipe('name = "fedbuff"\nstaleness = "constant"', cohort=2, rounds=1)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        quick, slow = await there(running, "quick", "slow")
        first = await quick.assignment()
        await deliver(quick, first, initial, 1.0)
        # Nobody else is idle: it trains the same version again, by another seed.
        second = await quick.assignment()
        await deliver(quick, second, initial, 4.0)
        await running.finished(run_id)
        step = moved(running, initial, 1).max()
        cancelled = await slow.cancelled()

    assert (first.round, second.round) == (1, 1)
    assert first.seed != second.seed
    assert first.assignment_id != second.assignment_id
    assert step == pytest.approx(2.5)
    assert cancelled.reason == "the run has the updates that it needs"


async def test_places_are_filled_as_they_become_free(tmp_path: Path) -> None:
    text = recipe('name = "fedbuff"\nconcurrency = 1', rounds=2)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        (first,) = await there(running, "a")
        assignment = await first.assignment()
        (second,) = await there(running, "b")
        await first.send(
            failure=federation_pb.AssignmentFailure(
                assignment_id=assignment.assignment_id, code="DATA_EMPTY", message="no image"
            )
        )
        taken = await second.assignment()
        await deliver(second, taken, initial, 1.0)
        await running.until(run_id, "round_committed", 1)
        open_now = await running.until(run_id, "cohort_selected", 2)

    assert (assignment.round, taken.round) == (1, 1)
    assert open_now.round == 2


async def test_fedasync_mixes_stale_models_into_the_version(tmp_path: Path) -> None:
    """x_1 = .5 * 2 = 1; y = x_0 + 8 at alpha .5 / 2^.5: x_2 = (1 - alpha) 1 + alpha 8."""
    text = recipe('name = "fedasync"\nmixing = 0.5', rounds=2)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        quick, slow = await there(running, "quick", "slow")
        begun = await slow.assignment()
        await deliver(quick, await quick.assignment(), initial, 2.0)
        await running.until(run_id, "round_committed", 1)
        await deliver(slow, begun, initial, 8.0)
        await running.finished(run_id)
        steps = [moved(running, initial, number).max() for number in (1, 2)]

    alpha = 0.5 / 2**0.5
    np.testing.assert_allclose(steps, [1.0, (1 - alpha) * 1.0 + alpha * 8.0], rtol=1e-5)


# Bounded staleness


async def test_worker_that_is_too_far_behind_is_told_to_begin_anew(tmp_path: Path) -> None:
    text = recipe('name = "fedbuff"\nmax_staleness = 1', rounds=3)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        quick, slow = await there(running, "quick", "slow")
        begun = await slow.assignment()
        for round in (1, 2):
            await deliver(quick, await quick.assignment(), initial, 1.0)
            await running.until(run_id, "round_committed", round)
        cancelled = await slow.cancelled()
        late = update_for(begun, "slow", initial, 100.0)
        await raises_code("ASSIGNMENT_CLOSED", slow.upload(late))
        anew = await slow.assignment()
        await deliver(slow, anew, initial, 1.0)
        await running.finished(run_id)
        step = moved(running, initial, 3).max()

    assert cancelled.assignment_id == begun.assignment_id
    assert anew.round == 3
    assert step == pytest.approx(3.0)


# After a restart


@pytest.mark.parametrize("downlink", ["identity", "int8"])
async def test_unfinished_buffer_and_assignments_of_old_versions_outlive_a_restart(
    tmp_path: Path, downlink: str
) -> None:
    more = f'[algorithm]\nname = "fedbuff"\n[wire]\ndownlink = "{downlink}"\n'
    text = digits_recipe("tiny", workers=3, cohort=2, rounds=2, more=more)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        one, two, slow = await there(running, "one", "two", "slow")
        begun = await slow.assignment()
        for worker in (one, two):
            await deliver(worker, await worker.assignment(), initial, 1.0)
        await running.until(run_id, "round_committed", 1)
        # "one" was given version 0 again before the buffer was full; of the second buffer its
        # update is there, and no other.
        again = await one.assignment()
        stale = update_for(again, "one", initial, 2**0.5)
        await one.upload(stale)

    async with running_coordinator(tmp_path) as running:
        one, slow = (ScriptedWorker(running, name) for name in ("one", "slow"))
        welcomed = [
            list((await worker.connect((key,))).wanted_assignment_ids)
            for worker, key in ((one, again.assignment_id), (slow, begun.assignment_id))
        ]
        # It missed its receipt; that it counts in another round than it is of does not matter.
        receipt = await one.upload(stale)
        given = await slow.assignment()
        await deliver(slow, given, initial, 3 * 2**0.5)
        run = await running.finished(run_id)
        step = moved(running, initial, 2).max()
        versions = {version.digest for version in running.store.registry.versions("tiny")}

    assert blobs_in(tmp_path) == versions
    assert welcomed == [[again.assignment_id], [begun.assignment_id]]
    assert receipt.duplicate
    assert (given.assignment_id, given.base_digest, given.round) == (
        begun.assignment_id,
        begun.base_digest,
        1,
    )
    assert run.code == ""
    assert step == pytest.approx(1.0 + (1 + 3) / 2, rel=1e-4)


async def test_lossy_base_of_an_old_version_outlives_versions_and_a_restart(
    tmp_path: Path,
) -> None:
    more = '[algorithm]\nname = "fedbuff"\nstaleness = "constant"\n[wire]\ndownlink = "int8"\n'
    text = digits_recipe("tiny", workers=3, cohort=1, rounds=5, more=more)
    initial = initial_of(text)
    random = np.random.default_rng(1).normal(0, 0.01, initial.trainable.shape)
    uneven = random.astype(np.float32)  # that int8 cannot hold exactly

    async def step(worker: ScriptedWorker) -> federation_pb.Assignment:
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, worker.worker_id, initial, uneven))
        return assignment

    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        (quick,) = await there(running, "quick")
        await step(quick)
        await running.until(run_id, "round_committed", 1)
        (slow,) = await there(running, "slow")
        begun = await slow.assignment()
        for round in (2, 3):
            await step(quick)
            await running.until(run_id, "round_committed", round)

    async with running_coordinator(tmp_path) as running:
        (slow,) = await there(running, "slow")
        again = await slow.assignment()
        way = {*(delta.digest for delta in again.deltas), again.deltas[0].from_digest}
        held = [running.store.blobs.size(digest) is not None for digest in way]
        await slow.upload(update_for(again, "slow", initial, uneven))
        await running.until(run_id, "round_committed", 4)
        (quick,) = await there(running, "quick")
        await step(quick)
        run = await running.finished(run_id)
        found = moved(running, initial, 5)
        versions = {version.digest for version in running.store.registry.versions("tiny")}

    assert begun.round == 2
    assert begun.deltas
    for name in ("assignment_id", "round", "base_digest", "base_bytes", "seed"):
        assert getattr(again, name) == getattr(begun, name), name
    assert list(again.deltas) == list(begun.deltas)
    assert all(held)
    assert run.code == ""
    np.testing.assert_allclose(found, 5 * uneven.astype(np.float64), atol=1e-5)
    assert blobs_in(tmp_path) == versions


async def test_run_that_is_stopped_in_mid_buffer_leaves_nothing_behind(tmp_path: Path) -> None:
    text = recipe('name = "fedbuff"', cohort=2, rounds=3)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        one, two, _ = await there(running, "one", "two", "slow")
        for worker in (one, two):
            await deliver(worker, await worker.assignment(), initial, 1.0)
        await running.until(run_id, "round_committed", 1)
        await deliver(one, await one.assignment(), initial, 5.0)
        await running.control.StopRun(pb.StopRunRequest(run_id=run_id), timeout=10)
        run = await running.finished(run_id)
        versions = {version.digest for version in running.store.registry.versions("tiny")}

    assert run.state == pb.RUN_STATE_STOPPED
    assert len(versions) == 1
    assert blobs_in(tmp_path) == versions


async def test_fedasync_finds_the_versions_of_stale_updates_after_a_restart(tmp_path: Path) -> None:
    text = recipe('name = "fedasync"\nmixing = 0.5\nstaleness = "constant"', rounds=4)
    initial = initial_of(text)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(text)
        quick, first = await there(running, "quick", "first")
        of_first = await first.assignment()
        await deliver(quick, await quick.assignment(), initial, 2.0)
        await running.until(run_id, "round_committed", 1)
        (second,) = await there(running, "second")
        of_second = await second.assignment()
        await deliver(quick, await quick.assignment(), initial, 2.0)
        await running.until(run_id, "round_committed", 2)

    async with running_coordinator(tmp_path) as running:
        first, second = await there(running, "first", "second")
        await deliver(first, await first.assignment(), initial, 8.0)
        # Other bytes than those that the commit of the first forgets.
        await deliver(second, await second.assignment(), initial, 9.0)
        await running.finished(run_id)
        steps = [moved(running, initial, number).max() for number in (1, 2, 3, 4)]

    assert (of_first.round, of_second.round) == (1, 2)
    # x_1 = 1, x_2 = 2; (2 + 8) / 2 = 5; (5 + (1 + 9)) / 2 = 7.5.
    np.testing.assert_allclose(steps, [1.0, 2.0, 5.0, 7.5], rtol=1e-5)


# Real workers

DIGITS = """
name = "asynchronous"
seed = 4
[model]
architecture = "mlp"
hidden = [16]
[data]
dataset = "digits"
partition = "iid"
workers = {workers}
[training]
epochs = {epochs}
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
deadline_s = 60
[algorithm]
{algorithm}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "cohort"), [('name = "fedbuff"', 2), ('name = "fedasync"\nmu = 0.1', 1)]
)
async def test_deployed_and_simulated_runs_of_one_at_a_time_are_the_same_bit_for_bit(
    tmp_path: Path, algorithm: str, cohort: int
) -> None:
    text = DIGITS.format(
        workers=3, epochs=1, rounds=4, cohort=cohort, algorithm=f"{algorithm}\nconcurrency = 1"
    )
    async with running_coordinator(tmp_path / "state") as running:
        with fleet(running.address, 3, tmp_path):
            await running.connected(3)
            run_id = await running.submit(text)
            await running.finished(run_id)
        state = state_of_version(running.store, "asynchronous")
        asked = [version.metrics["workers"] for version in running.store.registry.versions(NAME)]

    simulation = simulate(parse_recipe(text))
    assert asked[::-1] == [list(done.workers) for done in simulation.rounds]
    assert len({name for names in asked for name in names}) > 1
    assert state.trainable.tobytes() == simulation.state.trainable.tobytes()


NAME = "asynchronous"


@pytest.mark.slow
async def test_run_outlives_kills_of_the_coordinator_and_of_a_worker(tmp_path: Path) -> None:
    """Each is killed without a warning in the middle of a buffer, while workers train."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_STORE": f"sqlite:{tmp_path / 'state'}",
    }
    log = tmp_path / "coordinator.log"
    text = DIGITS.format(workers=3, epochs=20, rounds=8, cohort=3, algorithm='name = "fedbuff"')
    with fleet(address, 2, tmp_path), ExitStack() as last:
        with process(log, "-m", "fedfleet_coordinator", **settings):
            run_id = await submitted(address, text)
            await watch_until(address, run_id, "update_accepted", 2)
        last.enter_context(process(log, "-m", "fedfleet_coordinator", **settings))
        third = worker_settings(address, 2, tmp_path)
        with process(tmp_path / "third.log", "-m", "fedfleet_worker", **third):
            await until_trains(address, "worker-2")
        last.enter_context(process(tmp_path / "third.log", "-m", "fedfleet_worker", **third))
        await watch_until(address, run_id, "run_finished", 8)

    with open_store(settings["FEDFLEET_STORE"]) as store:
        run = store.journal.run(run_id)
        entries = store.journal.entries(run_id)
        counted = [store.journal.updates(run_id, round) for round in range(1, 9)]
        versions = store.registry.versions(NAME)
    accepted = [e.fields["assignment_id"] for e in entries if e.kind == "update_accepted"]

    assert (run.state.value, run.reason) == ("completed", "")
    assert [version.round for version in versions] == list(range(8, 0, -1))
    assert [len(records) for records in counted] == [3] * 8
    # Each update counts once, and all that were accepted do.
    assert sorted(one.assignment_id for records in counted for one in records) == sorted(accepted)
    assert len(set(accepted)) == 24
    assert versions[0].metrics["evaluation"]["accuracy"] > 0.8
    assert "run_resumed" in log.read_text()


@pytest.mark.slow
async def test_versions_go_on_while_a_slow_device_trains(tmp_path: Path) -> None:
    """A worker that is stopped for a while: the others make versions, it goes on and counts."""
    text = DIGITS.format(workers=3, epochs=4, rounds=30, cohort=2, algorithm='name = "fedbuff"')
    async with running_coordinator(tmp_path / "state") as running:
        slow = worker_settings(running.address, 2, tmp_path)
        with (
            fleet(running.address, 2, tmp_path),
            process(tmp_path / "slow.log", "-m", "fedfleet_worker", **slow) as device,
        ):
            await running.connected(3)
            run_id = await running.submit(text)
            await until_trains(running.address, "worker-2")
            device.send_signal(signal.SIGSTOP)
            begun = await newest(running, run_id)
            await running.until(run_id, "round_committed", begun + 6)
            device.send_signal(signal.SIGCONT)
            await running.finished(run_id)
        versions = running.store.registry.versions(NAME)

    shares = Counter(name for version in versions for name in version.metrics["workers"])
    staleness = [
        stale
        for version in versions
        for name, stale in zip(
            version.metrics["workers"], version.metrics["staleness"], strict=True
        )
        if name == "worker-2"
    ]
    assert shares["worker-2"] < min(shares["worker-0"], shares["worker-1"])
    assert max(staleness) >= 5


def worker_settings(address: str, number: int, folder: Path) -> dict[str, str]:
    return {
        "FEDFLEET_COORDINATOR": address,
        "FEDFLEET_WORKER_ID": f"worker-{number}",
        "FEDFLEET_SHARD": str(number),
        "FEDFLEET_STATE_DIR": str(folder / f"worker-{number}"),
        "FEDFLEET_OPS_PORT": "0",
    }


async def submitted(address: str, text: str) -> str:
    async with open_channel(address) as channel:
        control: Any = ControlServiceStub(channel)
        request = pb.SubmitRunRequest(recipe=text)
        response = await control.SubmitRun(request, timeout=60, wait_for_ready=True)
        return str(response.run.run_id)


async def until_trains(address: str, worker_id: str) -> None:
    """Each look is a call to the coordinator."""

    async def look() -> None:
        async with open_channel(address) as channel:
            control: Any = ControlServiceStub(channel)
            while True:
                workers = (
                    await control.ListWorkers(
                        pb.ListWorkersRequest(), timeout=30, wait_for_ready=True
                    )
                ).workers
                if any(w.worker_id == worker_id and w.progress_ratio > 0 for w in workers):
                    return

    await asyncio.wait_for(look(), 60)


async def newest(running: Running, run_id: str) -> int:
    return (await running.show(run_id)).run.round
