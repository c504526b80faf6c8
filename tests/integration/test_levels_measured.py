"""Levels by what devices measured: before the first round, and by what rounds took."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import Running, ScriptedWorker, process, running_coordinator, update_for

from fedfleet.cli.main import main
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.training.level_probe import ProbeTask
from fedfleet.training.submodels import SubModels
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2
from fedfleet.wire.updates import EncodedUpdate
from fedfleet.wire.weights import decode_state

RECIPE = """
name = "measured"
seed = 5
[model]
architecture = "mlp"
hidden = {hidden}
[data]
dataset = "digits"
partition = "iid"
workers = 2
[training]
lr = 0.02
threads = 1
[levels]
rates = {rates}
assignment = "measured"
target_s = {target_s}
[rounds]
rounds = {rounds}
cohort = 2
attempts = 3
[evaluation]
coordinator = false
workers = "all"
"""
SAMPLES = 1000


def text(
    *,
    hidden: str = "[16]",
    rates: str = "[1.0, 0.5, 0.25]",
    target_s: float = 10.0,
    rounds: int = 1,
) -> str:
    return RECIPE.format(hidden=hidden, rates=rates, target_s=target_s, rounds=rounds)


class Levels:
    """What a recipe's workers measure and train."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.levels is not None
        self._models = SubModels(card_of(recipe), recipe.levels.rates)
        self.digest = ProbeTask(
            card=card_of(recipe), training=recipe.training, rates=recipe.levels.rates
        ).digest

    def heartbeat(self, speeds: Mapping[str, float]) -> pb.Heartbeat:
        levels = [
            pb.LevelSpeed(level=level, samples_per_s=value, model_digest=self.digest)
            for level, value in speeds.items()
        ]
        return pb.Heartbeat(levels=levels)

    def update(self, assignment: pb.Assignment, worker_id: str, base: bytes) -> EncodedUpdate:
        state = decode_state(self._models.schema(assignment.level), base)
        encoded = update_for(assignment, worker_id, state, 0.5)
        encoded.header.level = assignment.level
        return encoded


class Scripted(ScriptedWorker):
    """A device that measures itself when it is asked to."""

    levels: Levels
    speeds: Mapping[str, float]
    samples = SAMPLES

    async def measure(self) -> None:
        """Answer the assignment that the level is measured in."""
        assignment = await self.assignment()
        assert assignment.kind == pb.ASSIGNMENT_KIND_PROBE
        await self.send(heartbeat=self.levels.heartbeat(self.speeds))
        counts = [self.samples] + [0] * 9
        evaluation = types_pb2.Evaluation(
            samples=self.samples,
            loss_sum=1.0,
            correct=self.samples,
            top5=self.samples,
            class_samples=counts,
            class_correct=counts,
            class_predicted=counts,
        )
        report = pb.EvaluationReport(assignment_id=assignment.assignment_id, evaluation=evaluation)
        await self.send(evaluation=report)

    async def train(self) -> str:
        """Train whatever comes, as the others do; returns the level."""
        assignment = await self.assignment()
        assert assignment.kind == pb.ASSIGNMENT_KIND_TRAIN
        base = await self.download(assignment)
        await self.upload(self.levels.update(assignment, self.worker_id, base))
        return assignment.level

    async def fail(self, code: str) -> str:
        assignment = await self.assignment()
        failure = pb.AssignmentFailure(assignment_id=assignment.assignment_id, code=code)
        await self.send(failure=failure)
        return assignment.level


async def connect(
    running: Running,
    recipe: str,
    speeds: Mapping[str, Mapping[str, float]],
    *,
    measured: bool = False,
) -> list[Scripted]:
    """Workers that say in their hello what they measured before, if they did."""
    levels = Levels(parse_recipe(recipe))
    workers = []
    for name, one in speeds.items():
        worker = Scripted(running, name)
        worker.levels, worker.speeds = levels, one
        told = levels.heartbeat(one).levels if measured else ()
        await worker.connect(device=pb.DeviceProfile(levels=told))
        workers.append(worker)
    return workers


QUICK = {"a": 1000.0, "b": 2000.0, "c": 4000.0}
SLOW = {"a": 10.0, "b": 50.0, "c": 200.0}


async def levels_of(running: Running) -> dict[str, str]:
    response = await running.control.ListWorkers(control_pb.ListWorkersRequest(), timeout=20)
    return {worker.worker_id: worker.level for worker in response.workers}


def quiet(recipe: str) -> str:
    """Nobody evaluates, so that assignments are to train."""
    return recipe.replace('workers = "all"', 'workers = "none"')


async def test_first_cohort_trains_what_its_probes_say(tmp_path: Path) -> None:
    """1000 examples in 10 s: 1000 a second at level a, or 200 at level c."""
    recipe = quiet(text())
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, {"quick": QUICK, "slow": SLOW})
        run_id = await running.submit(recipe)
        await asyncio.gather(*(worker.measure() for worker in workers))

        assert [await worker.train() for worker in workers] == ["a", "c"]
        run = await running.finished(run_id)

        assert run.reason == ""
        assert await levels_of(running) == {"quick": "a", "slow": "c"}


async def test_worker_that_measured_itself_before_is_not_asked_again(tmp_path: Path) -> None:
    recipe = quiet(text(rounds=2))
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, {"quick": QUICK, "slow": SLOW})
        run_id = await running.submit(recipe)
        await asyncio.gather(*(worker.measure() for worker in workers))
        for _ in range(2):
            # A round of these workers takes a moment, whatever their probes said.
            levels = await asyncio.gather(*(worker.train() for worker in workers))
        await running.finished(run_id)

        assert levels == ["a", "a"]


async def test_worker_out_of_memory_is_moved_down_and_not_lost(tmp_path: Path) -> None:
    recipe = quiet(text(rounds=2))
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, {"quick": QUICK, "tight": QUICK})
        quick, tight = workers
        run_id = await running.submit(recipe)
        await asyncio.gather(*(worker.measure() for worker in workers))

        assert await quick.train() == "a"
        assert await tight.fail("OUT_OF_MEMORY") == "a"
        assert await tight.fail("OUT_OF_MEMORY") == "b"
        assert await tight.train() == "c"
        levels = await asyncio.gather(*(worker.train() for worker in workers))
        run = await running.finished(run_id)

        assert run.reason == ""
        assert levels == ["a", "c"]


async def test_levels_are_the_same_after_a_restart(tmp_path: Path) -> None:
    """What rounds took is committed with them; the probes' figures come with the hello."""
    recipe = quiet(text(rounds=2, target_s=1e-4))
    speeds = {"one": dict.fromkeys("abc", 1e9), "two": dict.fromkeys("abc", 1e9)}
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, speeds)
        run_id = await running.submit(recipe)
        await asyncio.gather(*(worker.measure() for worker in workers))
        levels = await asyncio.gather(*(worker.train() for worker in workers))
        await running.until(run_id, "round_committed", 1)
    assert levels == ["a", "a"]

    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, speeds)
        levels = await asyncio.gather(*(worker.train() for worker in workers))
        await running.finished(run_id)

    # No round is that fast in truth, and the coordinator remembers.
    assert levels == ["c", "c"]


async def test_examples_that_a_probe_counted_are_known_after_a_restart(tmp_path: Path) -> None:
    """Ten times as many as the other has would be thought too many for the same level."""
    recipe = quiet(text())
    speeds = {"quick": QUICK, "slow": QUICK}
    async with running_coordinator(tmp_path) as running:
        quick, _ = await connect(running, recipe, speeds)
        run_id = await running.submit(recipe)
        await quick.measure()
        await running.until(run_id, "probe_reported")

    async with running_coordinator(tmp_path) as running:
        quick, slow = await connect(running, recipe, speeds, measured=True)
        slow.samples = 100 * SAMPLES
        await slow.measure()
        levels = [await worker.train() for worker in (quick, slow)]
        await running.finished(run_id)

    assert levels == ["a", "c"]


async def test_memory_that_ran_out_is_known_after_a_restart(tmp_path: Path) -> None:
    recipe = quiet(text())
    speeds = {"quick": QUICK, "tight": QUICK}
    async with running_coordinator(tmp_path) as running:
        quick, tight = await connect(running, recipe, speeds)
        run_id = await running.submit(recipe)
        await asyncio.gather(quick.measure(), tight.measure())
        assert await quick.train() == "a"
        # It rests from now on, so that nothing is drawn before the restart.
        await tight.send(heartbeat=pb.Heartbeat(pause_reason="on its battery"))
        assert await tight.fail("OUT_OF_MEMORY") == "a"
        await running.until(run_id, "assignment_failed")

    async with running_coordinator(tmp_path) as running:
        _, tight = await connect(running, recipe, speeds, measured=True)
        level = await tight.train()
        await running.finished(run_id)

    assert level == "b"


async def test_workers_evaluate_the_level_that_they_trained(tmp_path: Path) -> None:
    """A target that no round meets: the next level is the narrowest, before and after a restart."""
    recipe = text(target_s=1e-4)
    speeds = {"one": dict.fromkeys("abc", 1e9), "two": dict.fromkeys("abc", 1e9)}
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, speeds)
        await running.submit(recipe)
        await asyncio.gather(*(worker.measure() for worker in workers))
        trained = await asyncio.gather(*(worker.train() for worker in workers))
        evaluated = [(await worker.assignment()).level for worker in workers]
    async with running_coordinator(tmp_path) as running:
        workers = await connect(running, recipe, speeds)
        again = [await worker.assignment() for worker in workers]

    assert trained == evaluated == [one.level for one in again] == ["a", "a"]
    assert {one.kind for one in again} == {pb.ASSIGNMENT_KIND_EVALUATE}


# Real workers

WIDE = {"hidden": "[3000, 3000]", "rates": "[1.0, 0.25]", "target_s": 600.0, "rounds": 2}


@contextmanager
def real_worker(
    running: Running, folder: Path, number: int, name: str, **settings: str
) -> Iterator[Path]:
    log = folder / f"{name}.log"
    given = {
        "FEDFLEET_COORDINATOR": running.address,
        "FEDFLEET_WORKER_ID": name,
        "FEDFLEET_SHARD": str(number),
        "FEDFLEET_STATE_DIR": str(folder / name),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_THREADS": "1",
        **settings,
    }
    with process(log, "-m", "fedfleet_worker", **given):
        yield log


def logged(log: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line.get("event") == event]


@pytest.mark.slow
async def test_real_workers_measure_themselves_and_are_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Level a takes about 420 MB, level b 280 MB; one owner allows 450 MB, of which 80 % count."""
    async with running_coordinator(tmp_path / "store", heartbeat_s=0.5) as running:
        with ExitStack() as stack:
            roomy = stack.enter_context(real_worker(running, tmp_path, 0, "roomy"))
            limit = {"FEDFLEET_WORKER_MEMORY_MB": "430"}
            tight = stack.enter_context(real_worker(running, tmp_path, 1, "tight", **limit))
            await running.connected(2)
            run_id = await running.submit(text(**WIDE))
            run = await running.finished(run_id)

            assert run.reason == ""
            assert await levels_of(running) == {"roomy": "a", "tight": "b"}
            assert [len(logged(log, "levels_measured")) for log in (roomy, tight)] == [1, 1]
            # It outlasts the worker: another run of this model begins at once.
            again = await running.submit(text(**WIDE))
            assert (await running.finished(again)).reason == ""
            assert [len(logged(log, "levels_measured")) for log in (roomy, tight)] == [1, 1]

            argv = ("workers", "--coordinator", running.address)
            assert await asyncio.to_thread(main, (*argv, "--json"), {}) == 0
            document = json.loads(capsys.readouterr().out)
            assert await asyncio.to_thread(main, ("workers", "tight", *argv[1:]), {}) == 0
            shown = capsys.readouterr().out

    for worker in document["workers"]:
        assert (worker["rounds"], worker["of_rounds"]) == (2, 2)
        assert 0.4 < worker["weight_ratio"] < 0.6
        assert worker["round_s"] > 0
        assert [one["round"] for one in worker["accuracies"]] == [1, 2]
        assert [one["level"] for one in worker["device"]["levels"]] == ["a", "b"]
        assert worker["device"]["link_up_bytes_per_s"] > 0
        assert worker["heartbeat"]["memory_used_bytes"] > 1 << 20
    for words in ("2 of 2", "level", "examples/s", "accuracy on its own data, rounds 1 to 2"):
        assert words in shown
