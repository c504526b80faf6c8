"""A local Ray cluster of two processes gives what one process gives, and survives losing one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing

import psutil
import pytest

from fedfleet.errors import Unavailable
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.engines import EngineSettings, opened_engine
from fedfleet.sim.jobs import Job, Result
from fedfleet.types import Kind

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedfleet[sim]'")

from fedfleet.sim.ray import RayProcesses

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


def test_ray_cluster_that_is_not_there_is_named() -> None:
    parsed = parse_recipe(RECIPE.format(epochs=1))
    settings = EngineSettings(engine="ray", address="127.0.0.1:1")
    with (
        pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"),
        opened_engine(settings, parsed, None),
    ):
        pass
