"""The engine beyond one machine: processes of a Ray cluster, one resident model each.

Ray moves arrays through its own object store, and tasks by its own serialisation, which trusts
whoever can reach the cluster: keep a cluster on a network of its own. Each machine opens the data
set for itself, under the same path.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
)

from fedfleet.codecs.chain import Chain
from fedfleet.data.shard import Shards
from fedfleet.errors import (
    FedFleetError,
    ProcessDied,
    SettingInvalid,
    Unavailable,
    error_for_code,
)
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.jobs import Failed, Job, Result, TrainJob
from fedfleet.sim.parcels import Parcel, pack_job, pack_result, unpack_job, unpack_result
from fedfleet.sim.processes import DEATHS, check_text
from fedfleet.sim.workplace import Workplace
from fedfleet.training.trainers import Trainers
from fedfleet.types import Array, Kind, ModelState
from fedfleet.wire.spare import spare_small

# Jobs that a process has: the one that it does, and the next, so that it never waits.
EACH = 2
# Jobs under way, or whose results wait behind a slow one, for each process.
AHEAD = 8
CONNECT_S = 10.0

# Ray's handles and references have no types of their own worth naming; Any stands for them.


class Bench:
    """What runs in a process of the cluster."""

    def __init__(self, recipe_text: str, data_dir: str, device: str | None) -> None:
        torch.set_num_threads(1)
        self._fault: Parcel = {}
        try:
            recipe = parse_recipe(recipe_text)
            folder = Path(data_dir) if data_dir else None
            self._trainers = Trainers(
                card_of(recipe),
                recipe.training,
                recipe.evaluation,
                recipe.levels,
                device=device,  # type: ignore[arg-type] # checked by EngineSettings
            )
            shards = Shards(recipe.data, seed=recipe.seed, data_dir=folder)
            self._workplace = Workplace(recipe, self._trainers, shards, data_dir=folder)
        except FedFleetError as error:
            self._fault = {"fault": error.code, "reason": error.message}

    def carry_out(
        self,
        parcel: Parcel,
        base: Mapping[str, Array],
        broadcast: list[Array],
        memory: Mapping[str, Array],
    ) -> tuple[Parcel, dict[str, Array]]:
        """Do a job; what Ray hands over as references has become values."""
        if self._fault:
            return self._fault, {}
        schema = self._trainers.schema(parcel["level"])
        state = ModelState(schema, *(base[kind.value] for kind in Kind))
        return pack_result(self._workplace.carry_out(unpack_job(parcel, state, broadcast, memory)))


@dataclass(eq=False)
class _Process:
    """A process of the cluster, and the references to what it was asked, oldest first."""

    handle: Any
    asked: deque[Any] = field(default_factory=deque)


@dataclass(frozen=True)
class _Asked:
    """A job as it was asked, to be asked again of another process."""

    number: int
    assignment_id: str
    arguments: tuple[Any, ...]


class RayProcesses:
    """Starts the processes in a cluster that is there, or in one of this machine.

    Args:
        processes: how many; None is one for each CPU of the cluster.
        data_dir: of each machine; a relative one is meant from this process's folder.
        device: overrides the recipe's. For cuda, machines with a GPU are used and their GPUs
            shared out; auto is cuda where every machine has one, so that all compute alike.
        address: of the cluster, HOST:PORT; None starts one, for as long as the engine lives.

    Raises:
        RecipeInvalid: the recipe is not what its text says, which is all that is sent.
        Unavailable: there is no cluster at the address.
        SettingInvalid: more processes than the cluster has room for.
    """

    def __init__(
        self,
        recipe: Recipe,
        processes: int | None,
        *,
        data_dir: Path | None,
        device: str | None = None,
        address: str | None = None,
    ) -> None:
        check_text(recipe)
        self._uplink = recipe.wire.uplink_chain
        self._chains: dict[str, Chain] = {}
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _connect(address, processes)
        try:
            room = room_of(_machines(), processes, device or recipe.training.device)
        except SettingInvalid:
            self._leave()
            raise
        self._remote = ray.remote(num_cpus=1, num_gpus=room.gpus)(Bench)
        # Ray's processes work in folders of their own, where a relative path means another one.
        folder = str(data_dir.absolute()) if data_dir else ""
        self._begin = (recipe.source, folder, room.device)
        self._processes = [self._start() for _ in range(room.processes)]
        self._asked: dict[Any, tuple[_Process, _Asked]] = {}
        self._again: deque[_Asked] = deque()
        self._done: dict[int, Result] = {}
        self._numbers = 0
        self._deaths = 0

    def carry_out(self, jobs: Iterable[Job]) -> Iterator[Result]:
        coming = map(self._packed(), jobs)
        order: deque[int] = deque()
        try:
            while True:
                self._fill(order, coming)
                if not order:
                    return
                while order[0] not in self._done:
                    self._receive()
                    self._fill(order, coming)
                yield self._done.pop(order.popleft())
        finally:
            # What is under way is done to its end, for nobody; what waits is not asked again.
            self._again.clear()
            self._done.clear()
            self._asked = {}
            for process in self._processes:
                process.asked.clear()

    def close(self) -> None:
        """End the processes, and the cluster where it was started here."""
        for process in self._processes:
            ray.kill(process.handle)
        self._leave()

    def _leave(self) -> None:
        if self._is_ours:
            ray.shutdown()

    # Jobs

    def _packed(self) -> Any:
        """A function that makes a job ready to be asked; what jobs share is stored once."""
        stored: dict[int, tuple[object, Any]] = {}

        def once(owner: object, value: object) -> Any:
            if id(owner) not in stored:
                stored[id(owner)] = (owner, ray.put(value))
            return stored[id(owner)][1]

        def pack(job: Job) -> _Asked:
            if job.level not in self._chains:
                self._chains[job.level] = spare_small(self._uplink, job.base.schema)
            base = once(job.base, {kind.value: job.base.vector(kind) for kind in Kind})
            broadcast: Any = []
            if isinstance(job, TrainJob) and job.broadcast:
                broadcast = once(job.broadcast, [section.values for section in job.broadcast])
            self._numbers += 1
            arguments = (pack_job(job), base, broadcast, dict(job.memory))
            return _Asked(self._numbers, job.assignment_id, arguments)

        return pack

    def _fill(self, order: deque[int], coming: Iterator[_Asked]) -> None:
        """Ask processes that have room; first again what another one did not live to do."""
        while True:
            process = min(self._processes, key=lambda one: len(one.asked))
            if len(process.asked) >= EACH:
                return
            if self._again:
                asked = self._again.popleft()
            elif len(order) >= AHEAD * len(self._processes):
                return
            else:
                following = next(coming, None)
                if following is None:
                    return
                asked = following
                order.append(asked.number)
            reference = process.handle.carry_out.remote(*asked.arguments)
            process.asked.append(reference)
            self._asked[reference] = (process, asked)

    def _receive(self) -> None:
        """Wait for one result, or for the end of a process."""
        (reference,), _ = ray.wait(list(self._asked), num_returns=1)
        if reference not in self._asked:
            return
        process, asked = self._asked.pop(reference)
        process.asked.remove(reference)
        try:
            parcel, arrays = ray.get(reference)
        except (ActorDiedError, ActorUnavailableError, OutOfMemoryError):
            # The oldest was under way, whichever is told of first.
            self._replace(process, min([asked, *self._asked_of(process)], key=_number), asked)
            return
        except ObjectLostError:
            self._replace(process, asked, asked)
            return
        if "fault" in parcel:
            raise error_for_code(parcel["fault"], parcel["reason"])
        self._deaths = 0
        self._done[asked.number] = unpack_result(parcel, arrays, asked.assignment_id, self._chains)

    # Processes

    def _start(self) -> _Process:
        return _Process(self._remote.remote(*self._begin))

    def _asked_of(self, process: _Process) -> list[_Asked]:
        return [self._asked[reference][1] for reference in process.asked]

    def _replace(self, process: _Process, failed: _Asked, received: _Asked) -> None:
        """Fail one job of a process that died, and ask the others of another one."""
        mine = [received, *self._asked_of(process)]
        for reference in process.asked:
            del self._asked[reference]
        self._again.extend(sorted((one for one in mine if one is not failed), key=_number))
        # It may live, where an object was lost; the next one needs its CPU.
        ray.kill(process.handle)
        self._processes[self._processes.index(process)] = self._start()
        reason = "a Ray worker of the simulator died"
        self._done[failed.number] = Failed(
            assignment_id=failed.assignment_id, code=ProcessDied.code, reason=reason
        )
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise ProcessDied(f"{reason}, as {DEATHS - 1} before it; Ray's log says why")


def _number(asked: _Asked) -> int:
    return asked.number


@dataclass(frozen=True)
class Room:
    """What of a cluster is used.

    Args:
        gpus: the part of one that each process reserves; 0 for the CPU.
    """

    processes: int
    gpus: float
    device: str


def room_of(machines: Sequence[Mapping[str, float]], processes: int | None, device: str) -> Room:
    """Decide once, for the whole cluster, how many processes compute on what.

    Args:
        machines: Ray's resources of each machine.
        processes: None is one for each CPU.
        device: auto, cpu or cuda.

    Raises:
        SettingInvalid: processes that Ray would let wait for ever.
    """
    machines = [machine for machine in machines if machine.get("CPU", 0) >= 1]
    with_gpu = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if device == "auto":
        alike = bool(machines) and len(with_gpu) == len(machines)
        device = "cuda" if alike and torch.version.cuda else "cpu"
    if device == "cuda" and with_gpu:  # else a process says that CUDA is not there
        machines = with_gpu
    cpus = sum(int(machine["CPU"]) for machine in machines)
    if (processes or 1) > cpus:
        raise SettingInvalid(
            f"processes = {processes or 1}: the Ray cluster has {cpus} CPUs for device {device}; "
            "give fewer, or start it with more"
        )
    count = processes or cpus
    if device != "cuda" or not with_gpu:
        return Room(count, 0.0, device)
    # So small a part that GPUs run out on no machine before its CPUs do.
    each = max(math.ceil(min(one["CPU"], count) / int(one["GPU"])) for one in with_gpu)
    # Ray counts in ten-thousandths, to the nearest: rounded up, the last one would find no room.
    return Room(count, math.floor(10_000 / each) / 10_000, device)


def _machines() -> list[dict[str, float]]:
    nodes = ray.nodes()  # type: ignore[no-untyped-call] # Ray's word for a machine
    return [one["Resources"] for one in nodes if one["Alive"]]


def _connect(address: str | None, processes: int | None) -> None:
    try:
        if address is None:
            # "local": else Ray joins whatever cluster it finds on this machine.
            ray.init("local", num_cpus=processes, include_dashboard=False, configure_logging=False)
            return
        # Ray itself would wait for minutes for a cluster that is not there.
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, configure_logging=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unavailable(
            f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}; "
            "start one with: ray start --head, and give its HOST:PORT"
        ) from error
