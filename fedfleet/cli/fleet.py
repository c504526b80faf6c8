"""The processes of ``fedfleet up``: a coordinator, workers, the inference service, on loopback.

Coordinator and workers speak mutual TLS: the coordinator makes an authority in the state folder at
its first start, and each worker enrols with a token of its own, once.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfleet.cli.children import Children
from fedfleet.errors import CertificateInvalid, NotFound, SettingInvalid
from fedfleet.identity.credentials import FILE, Credentials, load_credentials
from fedfleet.rounds.recipe import Recipe
from fedfleet.rpc.control import ControlClient

HOST = "127.0.0.1"
# What this process's environment may say of other services than those that are started here.
_NOT_OURS = (
    *("FEDFLEET_STANDBY", "FEDFLEET_TOKEN", "FEDFLEET_TOKEN_FILE", "FEDFLEET_REST_AUTH"),
    *("FEDFLEET_SERVER_CERTIFICATE", "FEDFLEET_SERVER_KEY", "FEDFLEET_CLIENT_ROOT"),
    *("FEDFLEET_WORKER_CERTIFICATE", "FEDFLEET_WORKER_KEY", "FEDFLEET_SERVER_ROOT"),
    *("FEDFLEET_INFERENCE_CERTIFICATE", "FEDFLEET_INFERENCE_KEY", "FEDFLEET_SIGNER"),
)
# A slow device with a cold disk takes this long to import torch.
START_S = 180.0


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """What is to be started.

    Args:
        state_dir: absolute.
        data_dir: absolute, or None.
        port, enroll_port, inference_port: 0 takes a free one.
        environ: of this process; the children's settings are added to it.
    """

    recipe: Recipe
    workers: int
    state_dir: Path
    data_dir: Path | None
    port: int
    enroll_port: int
    inference_port: int
    environ: Mapping[str, str]

    @property
    def authority(self) -> Path:
        """The folder of the authority that the coordinator makes."""
        return self.state_dir / "ca"

    @property
    def operator(self) -> Path:
        """The folder with the credentials of whoever runs the coordinator."""
        return self.authority / "operator"

    def worker_dir(self, number: int) -> Path:
        """A worker's state folder."""
        return self.state_dir / "workers" / worker_name(number)

    def coordinator(self) -> dict[str, str]:
        """The coordinator's environment."""
        return self._with(
            FEDFLEET_HOST=HOST,
            FEDFLEET_PORT=str(self.port),
            FEDFLEET_ENROLL_PORT=str(self.enroll_port),
            FEDFLEET_TLS="on",
            FEDFLEET_CA_DIR=str(self.authority),
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
            FEDFLEET_CAMERAS_KEPT=self.environ.get("FEDFLEET_CAMERAS_KEPT")
            or str(self.state_dir / "cameras.json"),
        )

    def worker(
        self, number: int, coordinator: str, enrolment: str, token: str = ""
    ) -> dict[str, str]:
        """A worker's environment; it holds the shard of its number.

        Args:
            coordinator, enrolment: HOST:PORT where it connects and enrols.
            token: by which it enrols; empty where it has credentials already.
        """
        own = {"FEDFLEET_SHARD": str(number)} if self.recipe.data.workers is not None else {}
        return self._with(
            FEDFLEET_COORDINATOR=coordinator,
            FEDFLEET_ENROLL=enrolment,
            FEDFLEET_TLS="on",
            FEDFLEET_TOKEN=token,
            FEDFLEET_WORKER_ID=worker_name(number),
            FEDFLEET_STATE_DIR=str(self.worker_dir(number)),
            **own,
        )

    def _with(self, **settings: str) -> dict[str, str]:
        shared = {"FEDFLEET_OPS_HOST": HOST, "FEDFLEET_OPS_PORT": "0"}
        shared.update(dict.fromkeys(_NOT_OURS, ""))
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
        coordinator, enrolment: HOST:PORT.
        inference: URL.
        operator: who may do all there.
    """

    coordinator: str
    enrolment: str
    inference: str
    operator: Credentials


def start_fleet(children: Children, plan: FleetPlan) -> Fleet:
    """Start everything; returns when both services listen. The workers dial when they are ready.

    Raises:
        FedFleetError: a process ended, or did not start in time.
    """
    coordinator = children.start("coordinator", "fedfleet_coordinator", plan.coordinator(), stage=0)
    inference = children.start("inference-api", "fedfleet_inference_api", plan.inference(), stage=1)
    ports = children.wait_for(coordinator, "coordinator_started", START_S)
    address, enrolment = f"{HOST}:{ports['port']}", f"{HOST}:{ports['enroll_port']}"
    operator = load_credentials(plan.operator)
    for number, token in enumerate(list(_tokens(plan, address, operator))):
        environ = plan.worker(number, address, enrolment, token)
        children.start(worker_name(number), "fedfleet_worker", environ, stage=1)
    port = children.wait_for(inference, "listening", START_S)["port"]
    inference_url = f"http://{HOST}:{port}"
    return Fleet(
        coordinator=address, enrolment=enrolment, inference=inference_url, operator=operator
    )


def _tokens(plan: FleetPlan, address: str, operator: Credentials) -> Iterator[str]:
    """A token for each worker that has no credentials of this authority yet, else empty."""
    with ControlClient(address, credentials=operator) as client:
        for number in range(plan.workers):
            folder = plan.worker_dir(number) / "identity"
            if _is_enrolled(folder, operator.root):
                yield ""
            else:
                # A worker that has credentials asks for no others, however old they are.
                (folder / FILE).unlink(missing_ok=True)
                yield client.create_token(worker_name(number)).token


def _is_enrolled(folder: Path, root: bytes) -> bool:
    """Whether a folder holds credentials of an authority that have not ended."""
    try:
        held = load_credentials(folder)
    except (NotFound, CertificateInvalid):
        return False
    return held.root == root and time.time() < held.expires_at_s


def worker_name(number: int) -> str:
    """For example ``worker-0``."""
    return f"worker-{number}"


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
