"""Several processes give what one gives, bit for bit; one that dies costs its share of a round."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch
from harness import PATIENCE_S

from fedfleet.errors import ProcessDied, RecipeInvalid
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.engines import EngineSettings, opened_engine
from fedfleet.sim.jobs import Failed, Job, Result, TrainJob
from fedfleet.sim.outcome import Simulation
from fedfleet.sim.processes import DEATHS, Processes
from fedfleet.training.state import initial_state
from fedfleet.types import Kind

RECIPE = """
name = "engines"
seed = 5
[model]
{model}
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.5
workers = 6
[training]
{training}
threads = 1
[algorithm]
{algorithm}
[rounds]
rounds = 3
cohort = 3
{rounds}
{more}
"""
MLP = 'architecture = "mlp"\nhidden = [40]'
CNN = 'architecture = "cnn"\nwidth = 0.1\nhidden = 16\nnorm = "batch"'


def recipe(
    model: str = MLP,
    training: str = "lr = 0.05",
    algorithm: str = 'name = "fedavg"',
    rounds: str = "",
    more: str = "",
) -> str:
    return RECIPE.format(
        model=model, training=training, algorithm=algorithm, rounds=rounds, more=more
    )


RECIPES = {
    # Statistics and counters, over-selection, memory of the schedule, evaluation by all workers.
    "cnn": recipe(
        CNN,
        'lr = 0.1\nscheduler = "plateau"\naugment = "flip-crop"',
        rounds="over_select = 2",
        more='[evaluation]\nworkers = "all"',
    ),
    # Both ways lossy, error feedback, a broadcast, an algorithm's memory.
    "scaffold": recipe(
        algorithm='name = "scaffold"',
        more='[wire]\nuplink = "topk:0.1|int8"\ndownlink = "int8"',
    ),
    # Personal layers, weights that depend on all of the round.
    "fedbn": recipe(CNN, algorithm='name = "fedbn"', more='[evaluation]\nworkers = "cohort"'),
    "fedgw": recipe(training="lr = 0.05\nepochs = 2", algorithm='name = "fedgw"'),
    # Models of other widths, and what workers measure of each.
    "levels": recipe(
        CNN.replace("0.1", "0.3"),
        algorithm='name = "heterofl"',
        rounds="over_select = 2",
        more="[levels]\nrates = [1.0, 0.5]",
    ),
}


def same(left: Simulation, right: Simulation) -> bool:
    assert left.outcome == right.outcome == "completed"
    levels = [
        {level: found.tobytes() for level, found in one.levels.items()} for one in (left, right)
    ]
    return (
        left.rounds == right.rounds
        and levels[0] == levels[1]
        and all(
            left.state.vector(kind).tobytes() == right.state.vector(kind).tobytes() for kind in Kind
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_processes_give_bit_identical_runs(name: str) -> None:
    parsed = parse_recipe(RECIPES[name])

    settings = EngineSettings(engine="processes", processes=2)
    with opened_engine(settings, parsed, None) as engine:
        found = simulate(parsed, engine=engine)

    assert same(found, simulate(parsed))
    assert sorted(found.levels) == (["b"] if name == "levels" else [])


class Killing:
    """Processes of which some are killed at work.

    Args:
        batch: in which batch, from 1.
        times: how many are killed.
    """

    def __init__(self, engine: Processes, batch: int = 1, times: int = 1) -> None:
        self._engine = engine
        self._batch = batch
        self._times = times
        self._batches = 0

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        self._batches += 1
        results = self._engine.carry_out(jobs)
        if self._batches != self._batch:
            yield from results
            return
        over = threading.Event()
        killer = threading.Thread(target=self._kill, args=(over,))
        killer.start()
        try:
            yield from results
        finally:
            over.set()
            killer.join()

    def _kill(self, over: threading.Event) -> None:
        killed: set[int] = set()
        while len(killed) < self._times and not over.wait(0.005):
            # One that was killed is named until its end was noticed; its number is free by then.
            alive = [pid for pid in self._engine.at_work if pid not in killed]
            for pid in alive[: self._times - len(killed)]:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    def close(self) -> None:
        self._engine.close()


@pytest.mark.slow
def test_process_that_dies_costs_its_share_of_a_round_and_not_the_run() -> None:
    parsed = parse_recipe(recipe(training="lr = 0.02\nepochs = 40", rounds="quorum = 2"))
    with closing(Killing(Processes(parsed, 2, data_dir=None), batch=2)) as engine:
        found = simulate(parsed, engine=engine)

    assert found.outcome == "completed"
    assert [len(one.workers) for one in found.rounds] == [3, 2, 3]
    undisturbed = simulate(parsed)
    assert set(found.rounds[1].workers) < set(undisturbed.rounds[1].workers)


def jobs(parsed: Recipe, workers: Iterable[int]) -> Iterator[TrainJob]:
    base = initial_state(card_of(parsed), 1)
    for worker in workers:
        yield TrainJob(
            assignment_id=f"job-of-{worker}",
            worker_id=f"worker-{worker}",
            round=1,
            seed=worker,
            base=base,
            base_digest="sim",
            broadcast=(),
            memory={},
        )


@pytest.mark.slow
def test_processes_that_always_die_end_the_run_with_a_reason() -> None:
    parsed = parse_recipe(recipe(training="lr = 0.0001\nepochs = 1000000"))
    with closing(Killing(Processes(parsed, 1, data_dir=None), times=DEATHS)) as engine:
        results = engine.carry_out(jobs(parsed, range(6)))
        lost = [next(results) for _ in range(DEATHS - 1)]

        with pytest.raises(ProcessDied, match="status -9"):
            next(results)

    assert [(one.assignment_id, getattr(one, "code", "")) for one in lost] == [
        ("job-of-0", "PROCESS_DIED"),
        ("job-of-1", "PROCESS_DIED"),
    ]


@pytest.mark.slow
def test_jobs_that_nobody_wants_any_more_are_given_up() -> None:
    parsed = parse_recipe(recipe(training="lr = 0.0001\nepochs = 1000000"))
    nowhere = 99  # a job that fails at once: there is no such shard
    with closing(Processes(parsed, 1, data_dir=None)) as engine:
        unwanted = engine.carry_out(jobs(parsed, [nowhere, 0, 1]))
        assert isinstance(next(unwanted), Failed)
        limit_s = time.monotonic() + PATIENCE_S
        while not engine.at_work:
            assert time.monotonic() < limit_s, "nobody began"
        unwanted.close()

        (result,) = engine.carry_out(jobs(parsed, [nowhere]))

    assert isinstance(result, Failed)
    assert result.code == "DATA_MISSING"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_process_that_cannot_begin_says_why() -> None:
    parsed = parse_recipe(recipe().replace("threads = 1", 'threads = 1\ndevice = "cuda"'))
    with (
        closing(Processes(parsed, 1, data_dir=None)) as engine,
        pytest.raises(RecipeInvalid, match="no CUDA device"),
    ):
        list(engine.carry_out(jobs(parse_recipe(recipe()), [0])))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_simulation_that_is_killed_leaves_neither_processes_nor_files(tmp_path: Path) -> None:
    large = 'architecture = "mlp"\nhidden = [5000]'  # so that its file is mapped, not read
    endless = recipe(large, training="lr = 0.0001\nepochs = 1000000")
    (tmp_path / "endless.toml").write_text(endless)
    command = (sys.executable, "-m", "fedfleet.cli.main", "simulate", "endless.toml")
    engine = ("--engine", "processes", "--processes", "2")
    simulation = psutil.Popen((*command, *engine), cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        children, folder = _at_work(simulation)
    finally:
        simulation.kill()
        simulation.wait()

    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert alive == []
    assert not folder.exists()


def _at_work(simulation: psutil.Popen) -> tuple[list[psutil.Process], Path]:
    """Its processes, once each has mapped what is shared, and where that is."""
    limit_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit_s:
        children = simulation.children()
        maps = [Path(f"/proc/{child.pid}/maps").read_text() for child in children]
        found = [re.search(r"(/\S*/fedfleet-\w+)/arrays-", one) for one in maps]
        if len(found) == 2 and found[0] and found[1]:
            return children, Path(found[0][1])
        time.sleep(0.05)  # between two looks
    raise AssertionError("nobody began")
