"""Workers that die at any instant of a round, or whose disk, clock or network fails: nothing that
counted is lost, nothing counts twice, and the run ends with the bytes of an undisturbed one.

``FEDFLEET_LONG=1`` runs many more seeds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness import (
    PATIENCE_S,
    ROOT,
    Running,
    initial_of,
    raises_code,
    running_coordinator,
)
from integration import doomed_worker as doomed
from integration.silent_relay import silent_relay
from links import services
from links.services import coordinator_process

from fedfleet.identity.authority import Authority
from fedfleet.identity.tokens import new_token
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.store.access import TokenRecord
from fedfleet.store.open import open_store
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.weights import encode_state
from fedfleet_worker.config import Secret, WorkerConfig
from fedfleet_worker.identity import enrol_once

T = TypeVar("T")
LONG = bool(os.environ.get("FEDFLEET_LONG"))
DAY_S = 86400.0
pytestmark = pytest.mark.slow

RECIPE = """
name = "kills"
seed = {seed}
[model]
{model}
[data]
dataset = "digits"
partition = "dirichlet"
alpha = 0.5
workers = 2
[training]
lr = 0.05
epochs = {epochs}
threads = 1
[rounds]
rounds = {rounds}
cohort = 2
min_workers = 2
{more}
{algorithm}
"""
MLP = 'architecture = "mlp"\nhidden = [40]'
CNN = 'architecture = "cnn"\nwidth = 0.1\nhidden = 16\nnorm = "batch"'
WIDE = 'architecture = "mlp"\nhidden = [1000]'
LOSSY = '[wire]\nuplink = "topk:0.01|int8"\n'
KINDS = {
    # Both what the codec left out and what the algorithm remembers are on the device.
    "scaffold": (MLP, '[algorithm]\nname = "scaffold"\n' + LOSSY),
    "feddyn": (MLP, '[algorithm]\nname = "feddyn"\nalpha = 0.1\n' + LOSSY),
    "wide": (WIDE, '[algorithm]\nname = "scaffold"\n'),
    "fedbn": (CNN, '[algorithm]\nname = "fedbn"\n[evaluation]\nworkers = "all"\n'),
    "downlink": (MLP, '[algorithm]\nname = "scaffold"\n' + LOSSY + 'downlink = "int8"\n'),
}
POINTS = {
    **doomed.TRAINING,
    **doomed.KEEPING,
    **doomed.DELIVERING,
    **doomed.VERSIONS,
    **doomed.TIMED,
}


def recipe_of(kind: str, rounds: int, *, seed: int = 4, epochs: int = 1, more: str = "") -> str:
    """``more`` continues the table [rounds]."""
    model, algorithm = KINDS[kind]
    return RECIPE.format(
        seed=seed, model=model, rounds=rounds, epochs=epochs, algorithm=algorithm, more=more
    )


def alone(recipe: str) -> str:
    """The same for one worker."""
    for name in ("workers", "cohort", "min_workers"):
        recipe = recipe.replace(f"\n{name} = 2\n", f"\n{name} = 1\n")
    return recipe


class Doomed:
    """Worker processes with a life after each death."""

    def __init__(self, folder: Path, child: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._child = child

    def _lines(self) -> list[dict[str, Any]]:
        """How lives ended, those that did."""
        return [json.loads(line) for line in (self._folder / "told").read_text().splitlines()]

    def deaths(self, worker: str) -> list[str]:
        """The points where a worker died."""
        own = (line for line in self._lines() if line["worker"] == worker)
        return [line["died"] for line in own if "died" in line]

    def log(self, worker: str) -> str:
        return (self._folder / f"{worker}.log").read_text()

    def events(self, worker: str, event: str) -> list[dict[str, Any]]:
        """What a worker logged under one name, in all of its lives."""
        text = self.log(worker)
        whole = text[: text.rfind("\n") + 1].splitlines()
        lines = (json.loads(line) for line in whole if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    async def logged(self, worker: str, event: str, count: int = 1) -> dict[str, Any]:
        """The count-th line of an event."""

        async def poll() -> dict[str, Any]:
            while len(found := self.events(worker, event)) < count:
                assert self._child.poll() is None, self.log(worker)[-4000:]
                await asyncio.sleep(0.05)  # another process has no event to wait for
            return found[count - 1]

        return await asyncio.wait_for(poll(), PATIENCE_S)

    @property
    def pid(self) -> int:
        """The process of the life that was begun last."""
        return int([line["pid"] for line in self._lines() if "pid" in line][-1])

    async def during(self, work: Awaitable[T]) -> T:
        """Await something that workers have to stay alive for."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                ended = [one for one in self._lines() if "exit" in one]
                assert not ended or task.done(), self.log(ended[0]["worker"])[-4000:]
            return task.result()
        finally:
            task.cancel()

    async def ended(self, worker: str, code: int) -> None:
        """Wait until a life has ended by itself."""

        async def poll() -> None:
            told = {"worker": worker, "exit": code}
            while told not in self._lines():  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # another process has no event to wait for

        await asyncio.wait_for(poll(), PATIENCE_S)

    async def stop(self) -> None:
        """End the last lives well."""
        self._child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self._child.wait, 30) == 0
        for line in self._lines():
            assert line.get("exit", 0) == 0, self.log(line["worker"])[-4000:]


def target(point: str, passes: int = 1, **more: Any) -> dict[str, Any]:
    return {"point": point, "passes": passes, **more}


@contextmanager
def doomed_workers(
    folder: Path, address: str, lives: Sequence[Sequence[Any]], **settings: str
) -> Iterator[Doomed]:
    """Workers, each with the lives that it has before the last.

    Args:
        settings: of all of them; in ``COORDINATOR_0``, an address for the first alone.
    """
    plans = {}
    first = settings.pop("COORDINATOR_0", address)
    for number, ones in enumerate(lives):
        name = f"worker-{number}"
        own = {
            "FEDFLEET_COORDINATOR": address if number else first,
            "FEDFLEET_WORKER_ID": name,
            "FEDFLEET_SHARD": str(number),
            "FEDFLEET_STATE_DIR": str(folder / name),
            "FEDFLEET_OPS_PORT": "0",
            "FEDFLEET_THREADS": "1",
            "FEDFLEET_GRACE_S": "1",
            **settings,
        }
        log = folder / f"{name}.log"
        log.touch()
        plans[name] = {"log": str(log), "settings": own, "lives": list(ones)}
    script = str(ROOT / "tests" / "integration" / "doomed_worker.py")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FEDFLEET_")}
    with (folder / "told").open("wb") as told, (folder / "doomed.log").open("ab") as log_file:
        child = subprocess.Popen(
            [sys.executable, script, json.dumps(plans)], env=clean, stdout=told, stderr=log_file
        )
        try:
            yield Doomed(folder, child)
        finally:
            child.kill()  # what it has begun dies with it
            child.wait()


def digest_of_undisturbed(recipe: str) -> str:
    return hashlib.sha256(encode_state(simulate(parse_recipe(recipe)).state)).hexdigest()


def digest_of_last(folder: Path) -> str:
    with open_store(f"sqlite:{folder / 'store'}") as store:
        return store.registry.versions("kills")[0].digest


def accepted(folder: Path, run_id: str) -> list[str]:
    with open_store(f"sqlite:{folder / 'store'}") as store:
        entries = store.journal.entries(run_id)
    return [one.fields["assignment_id"] for one in entries if one.kind == "update_accepted"]


def check_state(state: Path, memories: int = 1) -> None:
    """What a worker has on its disk is whole, and nothing is left of what was half written."""
    assert list((state / "updates").iterdir()) == []
    assert len(list((state / "memories").iterdir())) == memories
    assert not list(state.rglob("*.new")) + list(state.rglob("*.partial"))
    assert not (state / "room.probe").exists()
    for path in (state / "versions").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def drawn(points: Mapping[str, int], seed: int, count: int) -> list[list[dict[str, Any]]]:
    """Lives that end at points, each of which comes once before any comes twice."""
    draws, found = random.Random(seed), []
    while len(found) < count:
        once = list(points)
        draws.shuffle(once)
        found += [[target(point, draws.randint(1, points[point]))] for point in once]
    return found[:count]


async def killed_run(folder: Path, kind: str, seed: int, kills: tuple[int, int]) -> None:
    """A run of two workers with so many deaths each, held against an undisturbed one."""
    recipe = recipe_of(kind, rounds=max(kills) + 1, seed=seed)
    lives = [drawn(POINTS, 2 * seed + i, n) for i, n in enumerate(kills)]
    async with coordinator_process(folder) as remote:
        with doomed_workers(folder, remote.address, lives) as workers:
            run_id = await remote.submit(recipe)
            run = await workers.during(remote.finished(run_id))
            await workers.stop()

    assert (run.code, run.reason) == ("", "")
    for number, planned in enumerate(lives):
        name = f"worker-{number}"
        assert workers.deaths(name) == [life[0]["point"] for life in planned]
        check_state(folder / name)
    ids = accepted(folder, run_id)
    assert len(ids) == len(set(ids)) == 2 * run.rounds
    assert digest_of_last(folder) == digest_of_undisturbed(recipe)


async def test_run_of_workers_that_die_at_any_point_is_the_undisturbed_one(
    tmp_path: Path,
) -> None:
    await killed_run(tmp_path, "scaffold", seed=1, kills=(len(POINTS), 6))


@pytest.mark.skipif(not LONG, reason="FEDFLEET_LONG is not set")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("kind", KINDS)
async def test_run_of_workers_that_die_often_is_the_undisturbed_one(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "RUN_S", 800.0)
    await killed_run(tmp_path, kind, seed, kills=(3 * len(POINTS), 2 * len(POINTS)))


async def test_worker_that_comes_back_after_its_round_has_closed_drops_its_update(
    tmp_path: Path,
) -> None:
    recipe = recipe_of("scaffold", rounds=3, more="quorum = 1\ndeadline_s = 2")
    closed = tmp_path / "closed"
    lives = [[[target("kept", until=str(closed))]], []]
    async with running_coordinator(tmp_path / "store") as running:
        with doomed_workers(tmp_path, running.address, lives) as workers:
            run_id = await running.submit(recipe)
            await running.until(run_id, "round_committed", 1)
            [kept] = (tmp_path / "worker-0" / "updates").glob("*/header.json")
            header = json.loads(kept.read_text())
            assert list((tmp_path / "worker-0" / "memories").iterdir()) == []
            closed.touch()
            run = await workers.during(running.finished(run_id))
            await workers.stop()

    assert (run.code, run.reason) == ("", "")
    # By whichever it was told first: the answer to its hello, or that to its upload.
    events = ("assignment_cancelled", "assignment_abandoned")
    [dropped] = [line for event in events for line in workers.events("worker-0", event)]
    assert dropped["assignment_id"] == header["assignment_id"]
    check_state(tmp_path / "worker-0")


# Certificates


async def test_worker_that_dies_while_it_keeps_credentials_has_none_or_all(
    tmp_path: Path,
) -> None:
    """A token is spent by an enrolment that dies; a certificate is good until the next is kept.

    And its clock jumps meanwhile: deadlines, heartbeats and waits go by another one.
    """
    more = "deadline_s = 60\nattempts = 1"
    recipe = alone(recipe_of("scaffold", rounds=12, epochs=4, more=more))
    async with running_coordinator(
        tmp_path / "store", tls="on", certificate_days=4.0 / DAY_S
    ) as running:
        settings = {"FEDFLEET_TLS": "on", "FEDFLEET_ENROLL": running.enrol_address}
        identity = tmp_path / "worker-0" / "identity"

        async def token() -> dict[str, str]:
            return {**settings, "FEDFLEET_TOKEN": await running.token("worker-0")}

        lives: list[list[dict[str, Any]]] = [[target("half_credentials")]]
        with doomed_workers(tmp_path, running.address, [lives], **await token()) as workers:
            await workers.ended("worker-0", 1)
            assert "have a new one made" in workers.log("worker-0").splitlines()[-1]
            assert not (identity / "credentials.pem").exists()

        ahead, behind = (target("time", 100, clock_s=offset_s) for offset_s in (DAY_S, -DAY_S))
        lives = [
            [target("credentials_named")],  # it has enrolled
            [ahead, target("half_credentials")],
            [ahead, target("credentials_unnamed")],
            [behind, target("credentials_named")],
            [behind],
        ]
        with doomed_workers(tmp_path, running.address, [lives], **await token()) as workers:
            run = await workers.during(running.finished(await running.submit(recipe)))
            await workers.logged("worker-0", "certificate_renewed")
            await workers.stop()
        digest = running.store.registry.versions("kills")[0].digest

    assert (run.code, run.reason) == ("", "")
    assert digest == digest_of_undisturbed(recipe)
    assert workers.deaths("worker-0") == [life[-1]["point"] for life in lives[:-1]]
    assert not workers.events("worker-0", "training_cut_short")
    assert not list(identity.glob(".*"))
    check_state(tmp_path / "worker-0")


# Full disks


class Narrow:
    """A folder in which there is little room: a file system of its own, where one may be mounted.

    Else files may not be larger than what there is room for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        try:
            done = subprocess.run(mount, capture_output=True, check=False)
            self.is_mounted = done.returncode == 0
        except OSError:
            self.is_mounted = False

    def give(self, room_bytes: int, pid: int) -> None:
        """Have so much room from now on."""
        if self.is_mounted:
            remount = f"remount,size={room_bytes}"
            subprocess.run(["mount", "-o", remount, str(self._folder)], check=True)
        else:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (room_bytes, hard))

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self._folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's")
async def test_worker_whose_disk_is_full_says_so_rests_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    recipe = alone(recipe_of("wide", rounds=2, more="attempts = 3"))
    version_bytes = len(encode_state(initial_of(recipe)))
    narrow = Narrow(tmp_path / "worker-0")
    try:
        async with running_coordinator(tmp_path / "store") as running:
            with doomed_workers(tmp_path, running.address, [[]]) as workers:
                await workers.logged("worker-0", "connected")
                narrow.give(100_000, workers.pid)
                run_id = await running.submit(recipe)
                # Not even the version fits.
                await refused(running, workers, run_id, 1)
                # The version does, and not the update beside it.
                narrow.give(version_bytes * 3 // 2, workers.pid)
                await refused(running, workers, run_id, 2)
                narrow.give(16 * version_bytes, workers.pid)
                run = await workers.during(running.finished(run_id))
                await workers.stop()
            digest = running.store.registry.versions("kills")[0].digest
        assert (run.code, run.reason) == ("", "")
        assert digest == digest_of_undisturbed(recipe)
        assert len(workers.events("worker-0", "assignment_failed")) == 2
        check_state(tmp_path / "worker-0")
    finally:
        narrow.close()


async def refused(running: Running, workers: Doomed, run_id: str, count: int) -> None:
    """Wait until the disk has refused so often; the coordinator was told, and why."""
    failed = await workers.logged("worker-0", "assignment_failed", count)
    assert failed["code"] == "STORE_FULL"
    assert (await workers.logged("worker-0", "disk_refuses", count))["code"] == "STORE_FULL"
    told = await running.until(run_id, "assignment_failed", 1)
    assert json.loads(told.fields_json)["code"] == "STORE_FULL"
    [known] = (await running.control.ListWorkers(pb.ListWorkersRequest(), timeout=10)).workers
    assert known.connected
    assert known.heartbeat.pause_reason == "its disk is full"


async def test_device_whose_clock_is_behind_is_told_to_set_it(tmp_path: Path) -> None:
    """As by two days: for it, the coordinator's certificates, a day back, begin tomorrow."""
    now_s = time.time()
    made = new_token(Authority.open(tmp_path / "store" / "ca", now_s + 2 * DAY_S).pin)
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        running.store.access.add_token(
            TokenRecord(
                token_id=made.id,
                secret_hash=made.secret_hash,
                role="worker",
                name="worker-0",
                created_at_s=now_s,
                expires_at_s=now_s + DAY_S,
            )
        )
        config = WorkerConfig(
            coordinator=running.address,
            enroll=running.enrol_address,
            state_dir=tmp_path / "state",
            worker_id="worker-0",
            token=Secret(made.text),
        )
        refused = await raises_code("UNAVAILABLE", enrol_once(config, replace_held=False))

    assert "begins at" in refused.message
    assert "set it" in refused.message


# Networks


async def test_worker_without_network_for_a_while_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = recipe_of("scaffold", rounds=6, epochs=10)
    # The coordinator gives a worker up after three heartbeats.
    silence_s, heartbeat_s = (30.0, 5.0) if LONG else (2.0, 0.4)
    async with (
        running_coordinator(tmp_path / "store", heartbeat_s=heartbeat_s) as running,
        silent_relay(running.coordinator.port) as relay,
    ):
        with doomed_workers(
            tmp_path, running.address, [[], []], COORDINATOR_0=relay.address
        ) as workers:
            run_id = await running.submit(recipe)
            await workers.logged("worker-0", "update_delivered", 2)
            relay.passing.clear()
            await asyncio.sleep(silence_s)
            assert running.coordinator.fleet.connected == {"worker-1"}
            relay.passing.set()
            run = await workers.during(running.finished(run_id))
            await workers.logged("worker-0", "update_delivered", run.rounds)
            await workers.stop()

    assert (run.code, run.reason) == ("", "")
    assert workers.events("worker-0", "stream_ended")
    ids = accepted(tmp_path, run_id)
    assert len(ids) == len(set(ids)) == 2 * run.rounds
    assert digest_of_last(tmp_path) == digest_of_undisturbed(recipe)
