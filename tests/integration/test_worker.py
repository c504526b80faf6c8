"""Real worker processes: own data on each, and what a worker says when it cannot do its part."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from harness import Running, process, running_coordinator, tiny_recipe
from PIL import Image

from fedfleet.v1 import control_service_pb2 as pb

FOLDER_RECIPE = """
name = "parts"
[model]
architecture = "cnn"
hidden = 16
[data]
dataset = "folder"
classes = ["bright", "dark"]
image_size = 8
channels = 1
[training]
epochs = 4
batch_size = 8
lr = 0.05
threads = 1
[rounds]
rounds = 2
cohort = 2
attempts = 1
[evaluation]
coordinator = false
workers = "all"
"""


def settings_for(running: Running, folder: Path, name: str, **more: str) -> dict[str, str]:
    return {
        "FEDFLEET_COORDINATOR": running.address,
        "FEDFLEET_WORKER_ID": name,
        "FEDFLEET_STATE_DIR": str(folder / f"state-{name}"),
        "FEDFLEET_OPS_PORT": "0",
        **more,
    }


def write_images(folder: Path, seed: int) -> None:
    """Ten bright and ten dark pictures, sorted into class folders as a user would."""
    random = np.random.default_rng(seed)
    for label, low in (("bright", 170), ("dark", 20)):
        target = folder / "train" / label
        target.mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(low, low + 60, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(target / f"{i}.png")


@pytest.mark.slow
async def test_workers_with_folders_of_their_own_train_one_model(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "store") as running:
        run_id = await running.submit(FOLDER_RECIPE)
        with ExitStack() as stack:
            for i in range(2):
                data = tmp_path / f"data-{i}"
                write_images(data, seed=i)
                settings = settings_for(running, tmp_path, f"pi-{i}", FEDFLEET_DATA_DIR=str(data))
                log = tmp_path / f"pi-{i}.log"
                stack.enter_context(process(log, "-m", "fedfleet_worker", **settings))
            run = await running.finished(run_id)
        shown = await running.show(run_id)
        workers = await running.control.ListWorkers(pb.ListWorkersRequest(), timeout=10)

    assert run.reason == ""
    last = shown.rounds[-1].worker_evaluations
    assert sorted(last) == ["pi-0", "pi-1"]
    assert all(e.correct == e.samples > 0 for e in last.values())
    assert all(w.device.cpu_count > 0 and w.device.machine for w in workers.workers)
    assert [w.assignment_id for w in workers.workers] == ["", ""]  # trained, and idle again
    assert shown.rounds[-1].metrics["train_loss"] < shown.rounds[0].metrics["train_loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "more", "code", "hint"),
    [
        (
            tiny_recipe(workers=1, cohort=1, more="attempts = 1"),
            {},
            "DATA_MISSING",
            "FEDFLEET_SHARD",
        ),
        (
            tiny_recipe(workers=1, cohort=1, more="attempts = 1"),
            {"FEDFLEET_SHARD": "7"},
            "DATA_MISSING",
            "7",
        ),
        (
            FOLDER_RECIPE.replace("cohort = 2", "cohort = 1"),
            {"FEDFLEET_DATA_DIR": "EMPTY"},
            "DATA_EMPTY",
            "",
        ),
    ],
)
async def test_worker_without_its_data_says_what_is_missing_and_stays(
    recipe: str, more: dict[str, str], code: str, hint: str, tmp_path: Path
) -> None:
    if more.get("FEDFLEET_DATA_DIR"):
        for label in ("bright", "dark"):
            (tmp_path / "data" / "train" / label).mkdir(parents=True)
        more = {"FEDFLEET_DATA_DIR": str(tmp_path / "data")}
    async with running_coordinator(tmp_path / "store") as running:
        settings = settings_for(running, tmp_path, "worker-0", **more)
        with process(tmp_path / "log", "-m", "fedfleet_worker", **settings) as child:
            run = await running.finished(await running.submit(recipe))
            assert child.poll() is None

    assert run.code == "QUORUM_NOT_MET"
    assert code in run.reason
    assert hint in run.reason
    assert str(tmp_path) not in run.reason


@pytest.mark.slow
async def test_second_worker_on_a_state_folder_is_refused(tmp_path: Path) -> None:
    settings = {"FEDFLEET_STATE_DIR": str(tmp_path / "state"), "FEDFLEET_OPS_PORT": "0"}
    async with running_coordinator(tmp_path / "store") as running:
        first = settings_for(running, tmp_path, "w-0", **settings)
        with process(tmp_path / "first", "-m", "fedfleet_worker", **first) as worker:
            while "w-0" not in running.coordinator.fleet.connected:
                assert worker.poll() is None
                await asyncio.sleep(0.05)  # another process has no event to wait for
            second = settings_for(running, tmp_path, "w-1", **settings)
            with process(tmp_path / "log", "-m", "fedfleet_worker", **second) as child:
                assert await asyncio.to_thread(child.wait, 60) == 1

    assert (
        (tmp_path / "log")
        .read_text()
        .splitlines()[-1]
        .startswith("fedfleet-worker: STATE_IN_USE: ")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"FEDFLEET_COORDINATOR": "192.0.2.1:7070"}, "INSECURE_ADDRESS"),
        ({"FEDFLEET_WORKER_ID": "a b"}, "INVALID_INPUT"),
        ({"FEDFLEET_SHARD": "-1"}, "SETTING_INVALID"),
        ({"FEDFLEET_OPS_PORT": "99999"}, "SETTING_INVALID"),
    ],
)
async def test_worker_with_a_bad_setting_ends_with_one_line(
    settings: dict[str, str], code: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    given = {"FEDFLEET_STATE_DIR": str(tmp_path / "state"), "FEDFLEET_OPS_PORT": "0", **settings}
    with process(log, "-m", "fedfleet_worker", **given) as child:
        assert await asyncio.to_thread(child.wait, 60) == 1

    [line] = log.read_text().splitlines()
    assert line.startswith(f"fedfleet-worker: {code}: ")
