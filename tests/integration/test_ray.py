"""A local Ray cluster of two processes gives what one process gives, and survives losing one."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedfleet.errors import SettingInvalid, Unavailable
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.engines import EngineSettings, opened_engine
from fedfleet.sim.jobs import Job, Result
from fedfleet.types import Kind

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[sim]'")

import ray
import torch
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayError

from fedfleet.sim.ray import RayProcesses, Room, room_of

# Ray starts daemons that outlive what its warnings are about, and warns of its own defaults.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
]

RECIPE = """
name = "ray"
seed = 5
[model]
architecture = "mlp"
hidden = [40]
[data]
dataset = "digits"
partition = "iid"
workers = 6
[training]
lr = 0.02
threads = 1
epochs = {epochs}
[algorithm]
name = "scaffold"
[rounds]
rounds = 3
cohort = 3
quorum = 2
[wire]
uplink = "topk:0.1|int8"
[evaluation]
workers = "cohort"
"""
# What Ray calls a process while it does one of our jobs.
AT_WORK = "ray::Bench.carry_out"


class Killing:
    """An engine of which one process is killed at work, in the second batch of training."""

    def __init__(self, engine: RayProcesses) -> None:
        self._engine = engine
        self._rounds = 0

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        jobs = list(jobs)
        self._rounds += hasattr(jobs[0], "round")
        results = self._engine.carry_out(jobs)
        if self._rounds != 2 or not hasattr(jobs[0], "round"):
            yield from results
            return
        over = threading.Event()
        killer = threading.Thread(target=self._kill_one, args=(over,))
        killer.start()
        try:
            yield from results
        finally:
            over.set()
            killer.join()

    def _kill_one(self, over: threading.Event) -> None:
        while not over.wait(0.01):
            for process in psutil.process_iter(["cmdline"]):
                if AT_WORK in " ".join(process.info["cmdline"] or ()):
                    process.kill()
                    return

    def close(self) -> None:
        self._engine.close()


def test_ray_cluster_gives_a_bit_identical_run() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=1))
    with opened_engine(EngineSettings(engine="ray", processes=2), parsed, None) as engine:
        found = simulate(parsed, engine=engine)

    alone = simulate(parsed)
    assert found.outcome == "completed"
    assert found.rounds == alone.rounds
    for kind in Kind:
        assert found.state.vector(kind).tobytes() == alone.state.vector(kind).tobytes()


def test_ray_worker_that_dies_costs_its_share_of_a_round_and_not_the_run() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=60))
    with closing(Killing(RayProcesses(parsed, 2, data_dir=None))) as engine:
        found = simulate(parsed, engine=engine)

    assert found.outcome == "completed"
    assert [len(one.workers) for one in found.rounds] == [3, 2, 3]


class Losing:
    """An engine of which one process loses its jobs, by another error in each of two batches."""

    def __init__(self, engine: RayProcesses, errors: list[RayError]) -> None:
        self._engine = engine
        self._errors = errors

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        jobs = list(jobs)
        if hasattr(jobs[0], "round") and self._errors:
            process = self._engine._processes[0]
            ray.kill(process.handle)
            process.handle = _losing(self._errors.pop(0))
        yield from self._engine.carry_out(jobs)

    def close(self) -> None:
        self._engine.close()


def _losing(error: RayError) -> Any:
    """A process of the cluster whose results raise when they are fetched. Any: Ray's handles."""

    class Bench:  # here, so that it is sent by value: Ray's processes have no folder of tests
        def carry_out(self, *arguments: object) -> object:
            raise error

    return ray.remote(num_cpus=1)(Bench).remote()


def test_ray_job_that_is_lost_fails_and_the_run_goes_on() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=1))
    errors: list[RayError] = [
        OutOfMemoryError("over the limit"),  # type: ignore[no-untyped-call]
        ObjectLostError("00" * 28, None, ""),
    ]
    with closing(Losing(RayProcesses(parsed, 2, data_dir=None), errors)) as engine:
        found = simulate(parsed, engine=engine)

    assert errors == []
    assert found.outcome == "completed"
    assert [len(one.workers) for one in found.rounds] == [2, 2, 3]


@contextmanager
def running_cluster() -> Iterator[str]:
    """A cluster of two CPUs in processes of its own; yields its address."""
    # Not pytest's folder: a path of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", "--port=0", "--num-cpus=2", "--num-gpus=0"]
        command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
        cluster = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert cluster.stdout is not None
        try:
            said = ""
            while (found := re.search(r"--address='([\d.:]+)'", said)) is None:
                line = cluster.stdout.readline()
                assert line, f"no cluster started: {said}"
                said += line
            yield found[1]
        finally:
            started = psutil.Process(cluster.pid).children(recursive=True)
            cluster.terminate()
            cluster.communicate()
            _, left = psutil.wait_procs(started, timeout=10)
            for process in left:
                process.kill()
            psutil.wait_procs(left)


def test_ray_cluster_at_an_address_gives_a_bit_identical_run() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=1))
    with running_cluster() as address:
        settings = EngineSettings(engine="ray", address=address)
        with opened_engine(settings, parsed, None) as engine:
            assert ray.get_runtime_context().gcs_address == address
            found = simulate(parsed, engine=engine)

    alone = simulate(parsed)
    assert found.rounds == alone.rounds
    for kind in Kind:
        assert found.state.vector(kind).tobytes() == alone.state.vector(kind).tobytes()


@pytest.mark.parametrize(
    ("machines", "processes", "device", "room"),
    [
        ([{"CPU": 4.0}, {"CPU": 2.0}, {}], None, "cpu", Room(6, 0.0, "cpu")),
        ([{"CPU": 4.0}], 3, "auto", Room(3, 0.0, "cpu")),
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}], None, "auto", Room(12, 0.0, "cpu")),
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}], None, "cuda", Room(4, 0.25, "cuda")),
        ([{"CPU": 8.0, "GPU": 2.0}], 3, "cuda", Room(3, 0.5, "cuda")),
        ([{"CPU": 8.0, "GPU": 4.0}], 2, "cuda", Room(2, 1.0, "cuda")),
        (
            [{"CPU": 2.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}],
            None,
            "cuda",
            Room(10, 0.25, "cuda"),
        ),
        ([{"CPU": 6.0, "GPU": 1.0}], None, "cuda", Room(6, 0.1666, "cuda")),
        ([{"CPU": 2.0}], None, "cuda", Room(2, 0.0, "cuda")),
    ],
)
def test_room_of_shares_out_what_machines_have(
    machines: list[dict[str, float]], processes: int | None, device: str, room: Room
) -> None:
    assert room_of(machines, processes, device) == room


def test_room_of_gpus_on_every_machine_is_used_by_auto_where_torch_can() -> None:
    found = room_of([{"CPU": 4.0, "GPU": 1.0}], None, "auto")

    assert found.device == ("cuda" if torch.version.cuda else "cpu")
    assert (found.gpus > 0) == (found.device == "cuda")


def test_room_of_refuses_processes_that_would_wait_for_ever() -> None:
    with pytest.raises(SettingInvalid, match="processes = 3: the Ray cluster has 2 CPUs"):
        room_of([{"CPU": 2.0}], 3, "cpu")


def test_ray_process_is_sent_an_absolute_folder() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=1).replace("epochs", 'device = "cuda"\nepochs'))
    with closing(RayProcesses(parsed, 1, data_dir=Path("data"))) as engine:
        assert engine._begin[1:] == (str(Path.cwd() / "data"), "cuda")


def test_ray_cluster_that_is_not_there_is_named() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=1))
    settings = EngineSettings(engine="ray", address="127.0.0.1:1")
    with (
        pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"),
        opened_engine(settings, parsed, None),
    ):
        pass
