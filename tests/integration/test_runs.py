"""Runs from submission to their end: quorum, deadlines, queue, stop, silence, a full disk."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import (
    PATIENCE_S,
    Running,
    ScriptedWorker,
    initial_of,
    raises_code,
    running_coordinator,
    tiny_recipe,
    update_for,
)

from fedfleet.cli.main import main
from fedfleet.errors import AddressInUse, InsecureAddress, StateInUse, StoreFull
from fedfleet.store.protocols import Entry
from fedfleet.store.sqlite import SqliteStore
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1 import federation_service_pb2 as federation_pb
from fedfleet.v1 import types_pb2


async def connected(running: Running, count: int) -> list[ScriptedWorker]:
    workers = [ScriptedWorker(running, f"worker-{i}") for i in range(count)]
    for worker in workers:
        await worker.connect()
    return workers


async def first_assignment(
    workers: list[ScriptedWorker],
) -> tuple[ScriptedWorker, federation_pb.Assignment]:
    """The first of these workers that is given an assignment, and the assignment."""
    waits = {asyncio.create_task(worker.assignment()): worker for worker in workers}
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    task = done.pop()
    return waits[task], task.result()


@contextmanager
def full_journal(running: Running, run_id: str) -> Iterator[None]:
    """Let SQLite find no room for another page, as on a full disk."""
    store = running.store
    assert isinstance(store, SqliteStore)
    with store.database.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    # Pages that exist have room left: fill it, with large entries and then with small ones.
    for size in (4000, 10):
        filler = Entry(run_id=run_id, round=0, at_s=0, kind="filler", fields={"x": "x" * size})
        with pytest.raises(StoreFull):
            for _ in range(1000):
                store.journal.append(filler)
    yield
    with store.database.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")


async def test_one_worker_fewer_than_the_quorum_fails_the_run_with_the_numbers(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(workers=3, cohort=3, more="quorum = 2\ndeadline_s = 0.3\nattempts = 2")
    async with running_coordinator(tmp_path) as running:
        await connected(running, 1)
        run = await running.finished(await running.submit(recipe))

    assert run.state == pb.RUN_STATE_FAILED
    assert run.code == "QUORUM_NOT_MET"
    assert "0 of 2 updates and 1 workers ready after 2 attempts" in run.reason


async def test_quorum_at_the_deadline_closes_the_round_without_the_straggler(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(workers=2, cohort=2, more="quorum = 1\ndeadline_s = 1.0")
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        workers = await connected(running, 2)
        assignments = [await worker.assignment() for worker in workers]
        update = update_for(assignments[0], "worker-0", initial_of(recipe), 1.0)
        await workers[0].upload(update)
        cancel = await workers[1].cancelled()
        await running.finished(run_id)
        shown = await running.show(run_id)

    assert cancel.assignment_id == assignments[1].assignment_id
    assert shown.run.state == pb.RUN_STATE_COMPLETED
    assert shown.rounds[0].updates == 1


async def test_failed_assignment_is_replaced_and_the_good_update_kept(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=3, cohort=2)
    async with running_coordinator(tmp_path) as running:
        workers = await connected(running, 3)
        run_id = await running.submit(recipe)
        first = await running.until(run_id, "cohort_selected")
        chosen = [w for w in workers if f'"{w.worker_id}"' in first.fields_json]
        assert len(chosen) == 2
        good = await chosen[0].assignment()
        bad = await chosen[1].assignment()
        initial = initial_of(recipe)
        await chosen[0].upload(update_for(good, chosen[0].worker_id, initial, 1.0))
        failure = federation_pb.AssignmentFailure(
            assignment_id=bad.assignment_id, code="DATA_EMPTY", message="no data"
        )
        await chosen[1].send(failure=failure)
        second = await running.until(run_id, "assignment_failed")
        assert "DATA_EMPTY" in second.fields_json
        others = [worker for worker in workers if worker is not chosen[0]]
        worker, assignment = await first_assignment(others)
        await worker.upload(update_for(assignment, worker.worker_id, initial, 3.0))
        run = await running.finished(run_id)

    assert run.code == ""


async def test_runs_wait_in_order_of_their_submission(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(tmp_path) as running:
        first, second = [await running.submit(recipe) for _ in range(2)]
        [worker] = await connected(running, 1)
        assignment = await worker.assignment()
        assert assignment.run_id == first
        assert (await running.show(second)).run.state == pb.RUN_STATE_QUEUED
        await worker.upload(update_for(assignment, "worker-0", initial_of(recipe), 1.0))
        assignment = await worker.assignment()
        assert assignment.run_id == second
        await worker.upload(update_for(assignment, "worker-0", initial_of(recipe), 1.0))
        assert (await running.finished(second)).code == ""
        versions = running.store.registry.versions("tiny")

    assert [(v.number, v.run_id) for v in versions] == [(2, second), (1, first)]


async def test_stop_ends_an_active_and_a_queued_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(tmp_path) as running:
        active, queued = [await running.submit(recipe) for _ in range(2)]
        [worker] = await connected(running, 1)
        assignment = await worker.assignment()
        await running.control.StopRun(pb.StopRunRequest(run_id=queued), timeout=10)
        await running.control.StopRun(pb.StopRunRequest(run_id=active), timeout=10)
        assert (await worker.cancelled()).assignment_id == assignment.assignment_id
        runs = [await running.finished(run_id) for run_id in (active, queued)]
        again = running.control.StopRun(pb.StopRunRequest(run_id=active), timeout=10)
        await raises_code("CONFLICT", again)

    assert [run.state for run in runs] == [pb.RUN_STATE_STOPPED] * 2


async def test_bad_recipe_is_refused_at_submission(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        bad = tiny_recipe().replace('"mlp"', '"mpl"')
        error = await raises_code("UNKNOWN_MODEL", running.submit(bad))
        assert "did you mean 'mlp'" in error.message
        error = await raises_code("RECIPE_INVALID", running.submit(tiny_recipe(more="rouns = 1")))
        assert "rounds.rouns" in error.message
        response = await running.control.ListRuns(pb.ListRunsRequest(), timeout=10)
        assert not response.runs


async def test_run_whose_data_the_coordinator_lacks_fails_and_the_next_one_runs(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(workers=1, cohort=1).replace('"synthetic"', '"cifar10"')
    async with running_coordinator(tmp_path) as running:
        run = await running.finished(await running.submit(recipe))
        assert (run.state, run.code) == (pb.RUN_STATE_FAILED, "DATA_MISSING")
        [worker] = await connected(running, 1)
        good = tiny_recipe(workers=1, cohort=1)
        run_id = await running.submit(good)
        assignment = await worker.assignment()
        await worker.upload(update_for(assignment, "worker-0", initial_of(good), 1.0))
        assert (await running.finished(run_id)).code == ""


async def test_silent_worker_loses_its_session_and_gets_its_assignment_again(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(tmp_path, heartbeat_s=0.1) as running:
        await running.submit(recipe)
        worker = ScriptedWorker(running, "worker-0")
        await worker.connect()
        assignment = await worker.assignment()
        error = await raises_code("TIMED_OUT", worker.read())
        assert "nothing came for 0.3 s" in error.message
        endless = f"r-0/{'9' * 5000}/1/train/worker-0"
        held = (assignment.assignment_id, "r-0/1/1/train/worker-0", endless)
        welcome = await worker.connect(held=held)
        assert list(welcome.wanted_assignment_ids) == [assignment.assignment_id]
        assert (await worker.assignment()).assignment_id == assignment.assignment_id


async def test_newer_stream_of_a_worker_replaces_the_older(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        older, newer = ScriptedWorker(running, "w"), ScriptedWorker(running, "w")
        await older.connect()
        await newer.connect()
        farewell = await older.read()
        assert farewell is not None
        assert farewell.goodbye.reason == "another worker with this id connected"
        assert await older.read() is None
        response = await running.control.ListWorkers(pb.ListWorkersRequest(), timeout=10)
        assert [(w.worker_id, w.connected) for w in response.workers] == [("w", True)]


def progress_of(assignment: federation_pb.Assignment) -> federation_pb.AssignmentProgress:
    return federation_pb.AssignmentProgress(assignment_id=assignment.assignment_id, done_ratio=1.0)


async def test_worker_is_busy_until_its_update_has_its_receipt(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    async with running_coordinator(tmp_path) as running:

        async def listed(worker_id: str) -> tuple[str, float]:
            response = await running.control.ListWorkers(pb.ListWorkersRequest(), timeout=10)
            [found] = [one for one in response.workers if one.worker_id == worker_id]
            return found.assignment_id, found.progress_ratio

        run_id = await running.submit(recipe)
        workers = await connected(running, 2)
        given = [await worker.assignment() for worker in workers]
        initial = initial_of(recipe)
        for worker, assignment in zip(workers, given, strict=True):
            await worker.send(progress=progress_of(assignment))
            while await listed(worker.worker_id) != (assignment.assignment_id, 1.0):
                pass  # the report is on its way
        await workers[0].upload(update_for(given[0], "worker-0", initial, 1.0))

        assert await listed("worker-0") == ("", 0.0)
        assert await listed("worker-1") == (given[1].assignment_id, 1.0)
        # What was reported before and comes after is no reason to call it busy again.
        await workers[0].send(progress=progress_of(given[0]))
        await workers[1].upload(update_for(given[1], "worker-1", initial, 1.0))
        await running.finished(run_id)
        assert await listed("worker-0") == await listed("worker-1") == ("", 0.0)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (federation_pb.Hello(worker_id=""), "INVALID_INPUT"),
        (federation_pb.Hello(worker_id="a/b"), "INVALID_INPUT"),
        (federation_pb.Hello(worker_id="w\n{}"), "INVALID_INPUT"),
        (federation_pb.Hello(worker_id="x" * 65), "INVALID_INPUT"),
        (federation_pb.Hello(worker_id="w", tags=["t"] * 33), "LIMIT_EXCEEDED"),
        (federation_pb.Hello(worker_id="w", tags=["t" * 65]), "LIMIT_EXCEEDED"),
        (federation_pb.Hello(worker_id="w", software_version="v" * 257), "LIMIT_EXCEEDED"),
    ],
)
async def test_hello_that_cannot_be_is_refused(
    hello: federation_pb.Hello, code: str, tmp_path: Path
) -> None:
    async with running_coordinator(tmp_path) as running:
        call = running.federation.Connect()
        await call.write(federation_pb.ConnectRequest(hello=hello))
        await raises_code(code, call.read())


async def test_stream_refuses_what_is_not_the_workers_own(tmp_path: Path) -> None:
    recipe = tiny_recipe(workers=2, cohort=2)
    async with running_coordinator(tmp_path) as running:
        await running.submit(recipe)
        workers = await connected(running, 2)
        theirs = await workers[1].assignment()
        failure = federation_pb.AssignmentFailure(assignment_id=theirs.assignment_id, code="X")
        await workers[0].assignment()
        await workers[0].send(failure=failure)
        await raises_code("INVALID_INPUT", workers[0].read())
        odd = types_pb2.Evaluation(samples=3, class_samples=[1], class_correct=[1])
        report = federation_pb.EvaluationReport(assignment_id=theirs.assignment_id, evaluation=odd)
        await workers[1].send(evaluation=report)
        await raises_code("INVALID_INPUT", workers[1].read())


async def test_full_disk_refuses_the_update_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    recipe = tiny_recipe(workers=1, cohort=1)
    async with running_coordinator(tmp_path) as running:
        run_id = await running.submit(recipe)
        [worker] = await connected(running, 1)
        assignment = await worker.assignment()
        update = update_for(assignment, "worker-0", initial_of(recipe), 1.0)
        with full_journal(running, run_id):
            error = await raises_code("STORE_FULL", worker.upload(update))
            assert error.retryable
            assert running.store.journal.updates(run_id, 1) == []
        assert not (await worker.upload(update)).duplicate
        assert (await running.finished(run_id)).code == ""


async def test_calls_that_are_not_served_yet_say_so(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        call = running.control.CreateToken(pb.CreateTokenRequest(worker_id="w"), timeout=10)
        error = await raises_code("NOT_SERVED", call)
        assert "FEDFLEET_TLS=on" in error.message
        await raises_code("NOT_SERVED", running.control.RevokeWorker(pb.RevokeWorkerRequest()))
        worker = ScriptedWorker(running, "w")
        await worker.connect()
        await worker.send(protocol=federation_pb.ProtocolMessage())
        await raises_code("NOT_SERVED", worker.read())


async def test_unknown_names_are_not_found(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        control = running.control
        await raises_code("NOT_FOUND", control.GetRun(pb.GetRunRequest(run_id="r-0")))
        await raises_code("NOT_FOUND", control.StopRun(pb.StopRunRequest(run_id="r-0")))
        await raises_code("NOT_FOUND", control.GetVersion(pb.GetVersionRequest(model="m")))
        alias = pb.SetAliasRequest(model="m", alias="production", version=1)
        await raises_code("NOT_FOUND", control.SetAlias(alias))
        download = federation_pb.DownloadRequest(digest="0" * 64)
        await raises_code("NOT_FOUND", running.federation.Download(download).read())
        download = federation_pb.DownloadRequest(digest="../x")
        await raises_code("INVALID_INPUT", running.federation.Download(download).read())


async def test_second_coordinator_on_a_store_is_refused(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        with pytest.raises(StateInUse, match="in use by another process"):
            async with running_coordinator(tmp_path):
                pass
        assert await running.submit(tiny_recipe())
    async with running_coordinator(tmp_path) as running:
        assert (await running.control.ListRuns(pb.ListRunsRequest(), timeout=10)).runs


async def test_latest_cannot_be_promoted(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path) as running:
        request = pb.SetAliasRequest(model="m", alias="latest", version=1)
        error = await raises_code("INVALID_INPUT", running.control.SetAlias(request))
        assert "FEDFLEET_SERVE_ALIAS" in error.message
        for alias in ("", "7", "x/y", "a" * 65):
            request = pb.SetAliasRequest(model="m", alias=alias, version=1)
            await raises_code("INVALID_INPUT", running.control.SetAlias(request))


async def test_port_in_use_and_open_address_are_refused(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "a") as running:
        port = running.coordinator.port
        with pytest.raises(AddressInUse, match="taken by another process"):
            async with running_coordinator(tmp_path / "b", port=port):
                pass
        with pytest.raises(InsecureAddress, match="FEDFLEET_INSECURE=1"):
            async with running_coordinator(tmp_path / "c", host="0.0.0.0", tls="off"):
                pass


async def test_submit_waits_for_a_coordinator_that_is_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tiny_recipe())
    environ = {"FEDFLEET_COORDINATOR": f"127.0.0.1:{port}"}
    submitting = asyncio.create_task(
        asyncio.to_thread(main, ("run", "submit", str(recipe), "--json"), environ)
    )
    told, deadline_s = "", time.monotonic() + PATIENCE_S
    while "waiting" not in told:  # nothing else says how far the other thread is
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
        told += capsys.readouterr().err

    async with running_coordinator(tmp_path / "state", port=port) as running:
        assert await submitting == 0
        (run,) = running.store.journal.runs()

    assert told.startswith(f"fedfleet: nobody listens at 127.0.0.1:{port} yet; waiting")
    assert json.loads(capsys.readouterr().out)["run_id"] == run.run_id
