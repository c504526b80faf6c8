"""The processes of ``fedfleet up``: a coordinator, workers, the inference service, on loopback."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cli.children import Child, Children
from fedfleet.errors import SettingInvalid
from fedfleet.rounds.recipe import Recipe

HOST = "127.0.0.1"
# A slow device with a cold disk takes this long to import torch.
START_S = 180.0


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """What is to be started.

    Args:
        state_dir: absolute.
        data_dir: absolute, or None.
        port, inference_port: 0 takes a free one.
        environ: of this process; the children's settings are added to it.
    """

    recipe: Recipe
    workers: int
    state_dir: Path
    data_dir: Path | None
    port: int
    inference_port: int
    environ: Mapping[str, str]

    def coordinator(self) -> dict[str, str]:
        """The coordinator's environment."""
        return self._with(
            FEDFLEET_HOST=HOST,
            FEDFLEET_PORT=str(self.port),
            FEDFLEET_STORE=f"sqlite:{self.state_dir}",
        )

    def inference(self) -> dict[str, str]:
        """The inference service's environment."""
        return self._with(
            FEDFLEET_HOST=HOST,
            FEDFLEET_INFERENCE_PORT=str(self.inference_port),
            FEDFLEET_STORE=f"sqlite:{self.state_dir}",
            FEDFLEET_SERVE_MODEL=self.recipe.name,
            FEDFLEET_SERVE_ALIAS="latest",
        )

    def worker(self, number: int, coordinator: str) -> dict[str, str]:
        """A worker's environment; it holds the shard of its number."""
        own = {"FEDFLEET_SHARD": str(number)} if self.recipe.data.workers is not None else {}
        return self._with(
            FEDFLEET_COORDINATOR=coordinator,
            FEDFLEET_WORKER_ID=f"worker-{number}",
            FEDFLEET_STATE_DIR=str(self.state_dir / "workers" / f"worker-{number}"),
            **own,
        )

    def _with(self, **settings: str) -> dict[str, str]:
        shared = {"FEDFLEET_OPS_HOST": HOST, "FEDFLEET_OPS_PORT": "0"}
        # The start of a service is read from its log, so a quieter level will not do.
        if self.environ.get("FEDFLEET_LOG_LEVEL", "").lower() != "debug":
            shared["FEDFLEET_LOG_LEVEL"] = "info"
        if not self.environ.get("FEDFLEET_THREADS"):
            rounds = self.recipe.rounds
            busy = min(self.workers, rounds.cohort + rounds.over_select)
            shared["FEDFLEET_THREADS"] = str(threads_each(_cores(), busy))
        if self.data_dir is not None:
            shared["FEDFLEET_DATA_DIR"] = str(self.data_dir)
        return {**self.environ, **shared, **settings}


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet that has been started.

    Args:
        coordinator: HOST:PORT.
        inference: URL.
    """

    coordinator: str
    inference: str


def start_fleet(children: Children, plan: FleetPlan) -> Fleet:
    """Start everything; returns when both services listen. The workers dial when they are ready.

    Raises:
        FedFleetError: a process ended, or did not start in time.
    """
    coordinator = children.start("coordinator", "fedfleet_coordinator", plan.coordinator(), stage=0)
    inference = children.start("inference-api", "fedfleet_inference_api", plan.inference(), stage=1)
    address = f"{HOST}:{_port(children, coordinator, 'coordinator_started')}"
    for number in range(plan.workers):
        children.start(f"worker-{number}", "fedfleet_worker", plan.worker(number, address), stage=1)
    url = f"http://{HOST}:{_port(children, inference, 'listening')}"
    return Fleet(coordinator=address, inference=url)


def _port(children: Children, child: Child, event: str) -> int:
    return int(children.wait_for(child, event, START_S)["port"])


def worker_count(recipe: Recipe, wanted: int | None) -> int:
    """How many workers to start.

    Raises:
        SettingInvalid: fewer than the quorum, or more than there are shards.
    """
    rounds, shards = recipe.rounds, recipe.data.workers
    count = wanted or shards or rounds.cohort + rounds.over_select
    if count < rounds.needed:
        raise SettingInvalid(
            f"--workers {count}: the recipe's rounds need {rounds.needed} updates (its quorum)"
        )
    if shards is not None and count > shards:
        raise SettingInvalid(f"--workers {count}: the recipe splits its data into {shards} shards")
    return count


def threads_each(cores: int, busy: int) -> int:
    """Threads for each process, so that those that are busy at once do not fight over cores."""
    return max(1, cores // busy)


def _cores() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_or_any(port: int) -> int:
    """The port where it is free on loopback, else 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
    return port
