"""500 workers on a coordinator with two cores: heartbeats kept, rounds of 100 updates of 1 MB.

    python bench/load.py --workers 500 --rounds 3 --seconds 60

Targets: no session ends, no heartbeat is lost, every update gets its receipt and counts. The
workers speak the real protocol over a connection each (mutual TLS, stream, heartbeats, download,
upload) and do not train: what they send is made up. They share the machine with the coordinator, so
times are those of both. ``--plain`` leaves TLS out.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from light_workers import PATIENCE_S, Told
from peaks import watched
from processes import await_port, free_port, process
from record import record

from fedfleet.identity.authority import OPERATOR_FOLDER
from fedfleet.identity.credentials import (
    load_credentials,
)
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.tls import channel_credentials, name_options
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state
from fedfleet.v1 import control_service_pb2 as control_pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

LIGHT_WORKERS = Path(__file__).parent / "light_workers.py"
PROCESSES = 4
CORES = 2
HEARTBEAT_S = 5.0
# An age of a worker's last sign at which one heartbeat has been missed, and some slack.
MISSED_S = 2 * HEARTBEAT_S
LOOK_S = 1.0
PIN = f"""import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{CORES}])
os.execv(sys.executable, [sys.executable, "-m", "fedfleet_coordinator"])
"""
RECIPE = """
name = "load"
seed = 1
[model]
architecture = "mlp"
hidden = [256, 875]
[data]
dataset = "digits"
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
min_workers = {workers}
deadline_s = 600
[evaluation]
coordinator = false
"""


@dataclass(frozen=True)
class Load:
    """What is asked of the coordinator.

    Args:
        seconds: for which it is watched at least.
    """

    workers: int
    cohort: int
    rounds: int
    seconds: float
    tls: bool

    @property
    def recipe(self) -> str:
        return RECIPE.format(workers=self.workers, cohort=self.cohort, rounds=self.rounds)


@dataclass(frozen=True)
class Watched:
    """What the coordinator's side showed.

    Args:
        oldest_s: the oldest last sign of a worker, over all looks.
        missed: looks at which a worker's last sign was older than two intervals.
        gone: most workers that were not connected at a look.
        rounds_s: seconds of each round.
        accepted: updates that the versions count.
    """

    oldest_s: float
    missed: int
    gone: int
    rounds_s: list[float]
    accepted: int


def oversee(control: ControlServiceStub, load: Load) -> Watched:
    """Wait for the workers, have the run done, look at every worker each second meanwhile."""
    until_s = time.monotonic() + PATIENCE_S
    while connected_of(control)[0] < load.workers:
        if time.monotonic() > until_s:
            raise SystemExit(f"{connected_of(control)[0]} of {load.workers} workers came")
        time.sleep(LOOK_S)
    began_s = time.monotonic()
    request = control_pb.SubmitRunRequest(recipe=load.recipe)
    run_id = control.SubmitRun(request, timeout=60).run.run_id
    ages, missed, gone = [0.0], 0, 0
    while True:
        time.sleep(LOOK_S)
        there, looks = connected_of(control)
        ages.append(max(looks, default=0.0))
        missed += sum(age > MISSED_S for age in looks)
        gone = max(gone, load.workers - there)
        shown = control.GetRun(control_pb.GetRunRequest(run_id=run_id), timeout=60)
        over = shown.run.state not in (control_pb.RUN_STATE_QUEUED, control_pb.RUN_STATE_RUNNING)
        if over and time.monotonic() - began_s >= load.seconds:
            break
        if time.monotonic() > until_s:
            raise SystemExit(f"the run has not ended after {PATIENCE_S:g} s")
    if shown.run.state != control_pb.RUN_STATE_COMPLETED:
        raise SystemExit(f"the run did not complete: {shown.run.code}: {shown.run.reason}")
    rounds_s = [round(one.duration_s, 2) for one in shown.rounds]
    return Watched(max(ages), missed, gone, rounds_s, sum(one.updates for one in shown.rounds))


def connected_of(control: ControlServiceStub) -> tuple[int, list[float]]:
    """How many workers are connected, and for how many seconds each gave no sign."""
    response = control.ListWorkers(control_pb.ListWorkersRequest(), timeout=60, wait_for_ready=True)
    now_s = time.time()
    ages = [now_s - one.last_seen_s for one in response.workers if one.connected]
    return len(ages), ages


def measure(load: Load) -> None:
    """Print what the load came to."""
    parsed = parse_recipe(load.recipe)
    elements = initial_state(card_of(parsed), derive(parsed.seed, "initial")).trainable.size
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = str(free_port())
        address = f"127.0.0.1:{port}"
        settings = {
            "FEDFLEET_PORT": port,
            "FEDFLEET_OPS_PORT": "0",
            "FEDFLEET_STORE": f"sqlite:{folder / 'store'}",
            "FEDFLEET_HEARTBEAT_S": str(HEARTBEAT_S),
            "FEDFLEET_TLS": "on" if load.tls else "off",
            "FEDFLEET_ENROLL_PORT": "0",
            "FEDFLEET_CA_DIR": str(folder / "ca"),
        }
        command = (sys.executable, "-c", PIN)
        stack.enter_context(process(command, folder / "coordinator.log", **settings))
        peaks = stack.enter_context(watched({"fedfleet_coordinator": "coordinator"}))
        await_port(int(port), PATIENCE_S)
        authority = folder / "ca" if load.tls else None
        channel = stack.enter_context(operator_channel(address, authority))
        fleet = start_fleet(address, load.workers, elements, authority)
        try:
            seen = oversee(ControlServiceStub(channel), load)
        finally:
            told = end_fleet(fleet)
        report(load, seen, told, peaks.megabytes(), 4 * elements / 1e6)


def operator_channel(address: str, folder: Path | None) -> grpc.Channel:
    """A connection of the coordinator's own account; its authority is in the folder."""
    if folder is None:
        return grpc.insecure_channel(address)
    operator = load_credentials(folder / OPERATOR_FOLDER)
    options = name_options(operator.target_name)
    return grpc.secure_channel(address, channel_credentials(operator), options)


def start_fleet(
    address: str, workers: int, elements: int, folder: Path | None
) -> list[subprocess.Popen[str]]:
    each = -(-workers // PROCESSES)
    counts = [(first, min(each, workers - first)) for first in range(0, workers, each)]
    own = [sys.executable, str(LIGHT_WORKERS), address, str(elements), str(folder or "")]
    return [
        subprocess.Popen([*own, str(first), str(count)], stdout=subprocess.PIPE, text=True)
        for first, count in counts
    ]


def end_fleet(fleet: list[subprocess.Popen[str]]) -> list[Told]:
    for one in fleet:
        one.send_signal(signal.SIGTERM)
    lines = [one.communicate(timeout=60)[0] for one in fleet]
    return [Told(**json.loads(line)) for line in lines if line]


def report(
    load: Load, seen: Watched, told: list[Told], peaks_mb: dict[str, float], update_mb: float
) -> None:
    receipts_s = sorted(s for one in told for s in one.receipts_s)
    ended, refused = sum(one.ended for one in told), sum(one.refused for one in told)
    whole = len(receipts_s) == seen.accepted == load.cohort * load.rounds
    kept = not (ended or refused or seen.missed or seen.gone)
    record(
        "load",
        whole and kept and len(told) == min(PROCESSES, load.workers),
        workers=load.workers,
        cohort=load.cohort,
        tls=load.tls,
        update_mb=round(update_mb, 3),
        watched_s=load.seconds,
        rounds_s=seen.rounds_s,
        updates_accepted=seen.accepted,
        receipts=len(receipts_s),
        receipt_p50_s=round(float(np.quantile(receipts_s, 0.5)), 3) if receipts_s else None,
        receipt_p99_s=round(float(np.quantile(receipts_s, 0.99)), 3) if receipts_s else None,
        heartbeats=sum(one.heartbeats for one in told),
        heartbeats_late=sum(one.late for one in told),
        heartbeats_missed=seen.missed,
        oldest_sign_s=round(seen.oldest_s, 2),
        sessions_ended=ended,
        peak_mb=peaks_mb,
        coordinator_cores=CORES,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="least time to watch")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    given = parser.parse_args()
    measure(Load(given.workers, given.cohort, given.rounds, given.seconds, tls=not given.plain))


if __name__ == "__main__":
    main()
