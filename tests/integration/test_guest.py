"""A real worker as a guest on its device: it rests, says why, and uploads what it could do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import PATIENCE_S, Running, process, running_coordinator, tiny_recipe

from fedfleet.v1 import control_service_pb2 as pb
from fedfleet_worker.sensors import LOAD_LEAST_S, LoadMeter

DAY_S = 86400
# More steps than anybody takes before the deadline.
ENDLESS = """
name = "endless"
seed = 3
[model]
architecture = "mlp"
hidden = []
[data]
dataset = "synthetic"
partition = "iid"
workers = 1
[training]
epochs = 200000
threads = 1
partial_work = {partial}
[rounds]
rounds = 2
cohort = 1
attempts = 1
deadline_s = 12
"""
LARGE = """
name = "large"
[model]
architecture = "mlp"
hidden = [6000, 6000]
[data]
dataset = "synthetic"
partition = "iid"
workers = 1
[training]
threads = 1
[rounds]
rounds = 1
cohort = 1
attempts = 1
"""


@contextmanager
def worker(running: Running, folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    given = {
        "FEDFLEET_COORDINATOR": running.address,
        "FEDFLEET_WORKER_ID": "guest",
        "FEDFLEET_SHARD": "0",
        "FEDFLEET_STATE_DIR": str(folder / "state"),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_THREADS": "1",
        **settings,
    }
    with process(folder / "log", "-m", "fedfleet_worker", **given) as child:
        yield child


def lines(folder: Path) -> list[dict[str, Any]]:
    """The worker's log; what is just being written is left out."""
    text = (folder / "log").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


async def logged(folder: Path, event: str, count: int = 1) -> dict[str, Any]:
    """The count-th log line of an event."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        found = [line for line in lines(folder) if line.get("event") == event]
        if len(found) >= count:
            return found[count - 1]
        assert time.monotonic() < until_s, (folder / "log").read_text()[-4000:]
        await asyncio.sleep(0.05)  # another process has no event to wait for


def clock(at_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_s))


def one_worker(rounds: int = 1, deadline_s: float = 120) -> str:
    more = f"attempts = 1\ndeadline_s = {deadline_s}"
    return tiny_recipe(workers=1, cohort=1, rounds=rounds, more=more)


@pytest.mark.slow
async def test_worker_outside_its_hours_says_why_and_trains_when_they_come(tmp_path: Path) -> None:
    opens_s = time.time() + 30
    hours = f"{clock(opens_s)}-{clock(opens_s + 7200)}"
    async with running_coordinator(tmp_path / "store") as running:
        run_id = await running.submit(one_worker())
        with worker(running, tmp_path, FEDFLEET_WORKER_HOURS=hours):
            paused = await logged(tmp_path, "paused")
            await seen_as(running, paused["reason"])
            accepted = await running.until(run_id, "update_accepted")
            resumed = await logged(tmp_path, "resumed")
            run = await running.finished(run_id)
            await seen_as(running, "")

    assert paused["reason"].startswith("outside its hours")
    assert resumed["reason"] == paused["reason"]
    assert accepted.at_s >= int(opens_s)
    assert run.code == ""


@pytest.mark.slow
async def test_worker_outside_its_hours_is_not_asked_from_its_hello_on(tmp_path: Path) -> None:
    now_s = time.time()
    hours = f"{clock(now_s + 7200)}-{clock(now_s + 10800)}"
    async with running_coordinator(tmp_path / "store") as running:
        with worker(running, tmp_path, FEDFLEET_WORKER_HOURS=hours) as child:
            paused = await logged(tmp_path, "paused")
            await seen_as(running, paused["reason"])
            # Its one attempt is not used up while whoever could take part rests.
            run_id = await running.submit(one_worker(deadline_s=2))
            await running.until(run_id, "deadline_passed")
            record = await running.show(run_id)
            assert child.poll() is None

    assert record.run.code == ""
    assert not any(line.get("event") == "assignment_failed" for line in lines(tmp_path))


async def shown(running: Running) -> pb.Worker:
    response = await running.control.ListWorkers(pb.ListWorkersRequest(), timeout=PATIENCE_S)
    [known] = response.workers
    return known


async def progress(running: Running) -> float:
    return float((await shown(running)).progress_ratio)


async def seen_as(running: Running, reason: str) -> None:
    """Wait until the coordinator shows the worker with a reason to rest, or without one."""
    until_s = time.monotonic() + PATIENCE_S
    await running.connected(1)
    while (known := await shown(running)).heartbeat.pause_reason != reason:
        assert time.monotonic() < until_s, known
        await asyncio.sleep(0.05)  # nobody is told of a heartbeat


@contextmanager
def busy() -> Iterator[None]:
    """Processes that use every core."""
    code = [sys.executable, "-c", "while True: pass"]
    loads = [subprocess.Popen(code) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait()


def share_of_others() -> float:
    meter = LoadMeter()
    meter.read()
    time.sleep(LOAD_LEAST_S + 0.1)  # of processor time that is measured
    return meter.read() or 0.0


@pytest.mark.slow
async def test_worker_that_must_rest_in_the_middle_holds_its_training_until_the_deadline(
    tmp_path: Path,
) -> None:
    recipe = ENDLESS.format(partial="true").replace("rounds = 2", "rounds = 1")
    recipe = recipe.replace("deadline_s = 12", "deadline_s = 40")
    now_s = time.time()
    hours = f"{clock(now_s - 60)}-{clock(now_s + 25)}"
    async with running_coordinator(tmp_path / "store") as running:
        with worker(running, tmp_path, FEDFLEET_WORKER_HOURS=hours):
            run_id = await running.submit(recipe)
            paused = await logged(tmp_path, "paused")
            await asyncio.sleep(1.0)  # the step that it was in, and what is on its way
            before = await progress(running)
            await asyncio.sleep(2.0)  # in which it would take thousands of steps
            after = await progress(running)
            run = await running.finished(run_id)
        record = await running.show(run_id)

    assert paused["reason"].startswith("outside its hours")
    assert 0 < before == after < 1
    assert run.code == ""
    assert record.rounds[0].metrics["worker.partial"] == pytest.approx(after, abs=0.02)


@pytest.mark.slow
async def test_worker_takes_no_work_while_other_processes_are_busy(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "store") as running:
        with busy(), worker(running, tmp_path, FEDFLEET_WORKER_LOAD_RATIO="0.5") as child:
            paused = await logged(tmp_path, "paused")
            await seen_as(running, paused["reason"])
            run_id = await running.submit(one_worker(deadline_s=2))
            await running.until(run_id, "deadline_passed")
            record = await running.show(run_id)
            assert child.poll() is None

    assert record.run.code == ""
    # It said that it rests, so nobody asked it.
    assert not any(line.get("event") == "assignment_failed" for line in lines(tmp_path))


@pytest.mark.slow
async def test_worker_yields_to_busy_processes_in_the_middle_of_its_training(
    tmp_path: Path,
) -> None:
    limit = 0.7
    others = await asyncio.to_thread(share_of_others)
    if others > 0.4 * limit:
        pytest.skip(f"other processes use {others:.0%} of this machine's cores already")
    recipe = ENDLESS.format(partial="true").replace("epochs = 200000", "epochs = 8000")
    recipe = recipe.replace("deadline_s = 12", "deadline_s = 120").replace(
        "rounds = 2", "rounds = 1"
    )
    async with running_coordinator(tmp_path / "store") as running:
        run_id = await running.submit(recipe)
        with worker(running, tmp_path, FEDFLEET_WORKER_LOAD_RATIO=str(limit)):
            await running.until(run_id, "cohort_selected")
            with busy():
                paused = await logged(tmp_path, "paused")
                await asyncio.sleep(1.0)
                before = await progress(running)
                await asyncio.sleep(1.0)
                after = await progress(running)
            await logged(tmp_path, "resumed")
            run = await running.finished(run_id)
            record = await running.show(run_id)

    assert "of the cores, more than 70%" in paused["reason"]
    assert before == after < 1
    assert run.code == ""
    assert "worker.partial" not in record.rounds[-1].metrics


@pytest.mark.slow
async def test_worker_uploads_what_it_has_done_shortly_before_the_deadline(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "store") as running:
        run_id = await running.submit(ENDLESS.format(partial="true"))
        with worker(running, tmp_path):
            run = await running.finished(run_id)
        record = await running.show(run_id)
        cut = await logged(tmp_path, "training_cut_short")

    assert run.code == ""
    assert [summary.updates for summary in record.rounds] == [1, 1]
    for summary in record.rounds:
        assert 0 < summary.metrics["worker.partial"] < 1
        assert summary.duration_s < 12 + 1
        assert summary.weight > 1  # its examples, however few of its steps were done
    assert record.rounds[0].metrics["worker.partial"] == pytest.approx(cut["done_ratio"], abs=1e-4)
    assert record.rounds[1].metrics["train_loss"] < record.rounds[0].metrics["train_loss"]


@pytest.mark.slow
async def test_worker_whose_recipe_takes_no_partial_work_loses_it_at_the_deadline(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "store") as running:
        run_id = await running.submit(ENDLESS.format(partial="false"))
        with worker(running, tmp_path) as child:
            run = await running.finished(run_id)
            # And is free for other work.
            other = await running.finished(await running.submit(one_worker()))
            assert child.poll() is None

    assert run.code == "QUORUM_NOT_MET"
    assert other.code == ""


@pytest.mark.slow
async def test_worker_that_runs_out_of_memory_says_so_and_takes_the_next_assignment(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "store") as running:
        with worker(running, tmp_path) as child:
            await running.finished(await running.submit(one_worker()))
            held_mb = psutil.Process(child.pid).memory_info().rss >> 20
        limit = str(held_mb + 150)
        with worker(running, tmp_path, FEDFLEET_WORKER_MEMORY_MB=limit) as child:
            large = await running.finished(await running.submit(LARGE))
            small = await running.finished(await running.submit(one_worker()))
            left_mb = psutil.Process(child.pid).memory_info().rss >> 20
            assert child.poll() is None

    assert large.code == "QUORUM_NOT_MET"
    assert "guest: OUT_OF_MEMORY: training took" in large.reason
    assert f"this device allows {limit}" in large.reason
    assert small.code == ""
    assert left_mb < held_mb + 150


def niceness(pid: int) -> dict[str, list[int]]:
    """How nice the threads of a process are, by their names."""
    found: dict[str, list[int]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        found.setdefault(name, []).append(int(rest.split()[16]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_worker_trains_behind_other_processes_and_talks_beside_them(tmp_path: Path) -> None:
    own = os.nice(0)
    async with running_coordinator(tmp_path / "store") as running:
        with worker(running, tmp_path, FEDFLEET_WORKER_NICE="3") as child:
            await running.finished(await running.submit(one_worker()))
            nice = niceness(child.pid)
            main = os.getpriority(os.PRIO_PROCESS, child.pid)

    assert main == own
    assert min(19, own + 3) in {level for levels in nice.values() for level in levels}


@pytest.mark.slow
async def test_worker_that_holds_a_training_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    recipe = ENDLESS.format(partial="true").replace("deadline_s = 12", "deadline_s = 120")
    now_s = time.time()
    hours = f"{clock(now_s - 60)}-{clock(now_s + 15)}"
    async with running_coordinator(tmp_path / "store") as running:
        with worker(running, tmp_path, FEDFLEET_WORKER_HOURS=hours) as child:
            run_id = await running.submit(recipe)
            await running.until(run_id, "cohort_selected")
            await logged(tmp_path, "paused")
            child.terminate()
            assert await asyncio.to_thread(child.wait, 30) == 0
