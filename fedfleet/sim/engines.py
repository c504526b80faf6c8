"""The engines by name. Imports no torch, so that processes can be started before it is loaded."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fedfleet.rounds.recipe import Recipe
from fedfleet.sim.jobs import Engine
from fedfleet.sim.processes import Processes

EngineName = Literal["inprocess", "processes", "ray"]
Device = Literal["auto", "cpu", "cuda"]
# Found when it is asked for: Ray is a package of its own.
_RAY = "fedfleet.sim.ray:RayProcesses"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """Where the workers' part of a simulation is computed; no part of the recipe.

    Args:
        engine: in this process, in several of this machine, or in those of a Ray cluster.
        processes: how many; None is one for each core (each CPU of a Ray cluster).
        device: overrides the recipe's; None leaves it.
        address: of the Ray cluster; None starts one on this machine for the time of the run.
        batch_workers: train so many workers as one batch, where the model is small enough for it
            to pay; never bit-identical with a deployed run. 1 trains one after the other.
    """

    engine: EngineName = "inprocess"
    processes: int | None = None
    device: Device | None = None
    address: str | None = None
    batch_workers: int = 1

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            names = ", ".join(get_args(EngineName))
            raise ValueError(f"engine = {self.engine!r}: must be one of {names}")
        if self.device is not None and self.device not in get_args(Device):
            names = ", ".join(get_args(Device))
            raise ValueError(f"device = {self.device!r}: must be one of {names}")
        if self.processes is not None and self.engine == "inprocess":
            raise ValueError('processes: has no meaning with engine = "inprocess"')
        if self.processes is not None and not 1 <= self.processes <= 4096:
            raise ValueError(f"processes = {self.processes}: must be from 1 to 4096")
        if self.address is not None and self.engine != "ray":
            raise ValueError(f'address: has no meaning with engine = "{self.engine}"')
        if not 1 <= self.batch_workers <= 100_000:
            raise ValueError(f"batch_workers = {self.batch_workers}: must be from 1 to 100,000")
        if self.batch_workers > 1 and self.engine != "inprocess":
            # Which jobs a process gets depends on time, so the rounding of each run would differ.
            raise ValueError(f'batch_workers: has no meaning with engine = "{self.engine}"')


@contextmanager
def opened_engine(
    settings: EngineSettings, recipe: Recipe, data_dir: Path | None
) -> Iterator[Engine | None]:
    """An engine while the body runs; None where it is the simulating process itself.

    Raises:
        RecipeInvalid: other processes cannot be sent this recipe.
        NotInstalled: Ray is not there.
        Unavailable: the Ray cluster is not there.
    """
    if settings.engine == "inprocess":
        yield None
        return
    if settings.engine == "processes":
        count = settings.processes or _cores()
        engine: Engine = Processes(recipe, count, data_dir=data_dir, device=settings.device)
    else:
        # Any: a class found by name.
        ray: Any = pkgutil.resolve_name(_RAY)
        engine = ray(
            recipe,
            settings.processes,
            data_dir=data_dir,
            device=settings.device,
            address=settings.address,
        )
    try:
        yield engine
    finally:
        engine.close()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
