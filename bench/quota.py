"""Round times of three workers that get 1, 1/4 and 1/16 of the same CPU quota, as real processes.

First everyone trains the whole model (FedAvg). Then levels are assigned by measurement: workers
probe themselves at enrolment and train the widest level with which they meet the target time,
which is 1.5 times what the fastest took for the whole model. Slowed by the kernel's CPU quota
(cpu_quota.py); the whole quota is half a core, so that two cores are enough for all of them. The
quotas begin once the workers are connected, since importing torch is no part of a round. The model
is a perceptron of two wide layers, whose work falls with the square of the width; where it falls
less, as for networks of a few channels, levels are further apart than quotas. Each level is half
the work of the one above it: with HeteroFL's, a quarter apart, a worker that just misses the target
at one level takes a quarter of it at the next.

Targets: with assigned levels the slowest worker's median round time is at most 1.5 times the
fastest one's, over the rounds after the first three. With FedAvg there is no target.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cpu_quota import is_allowed, put_into, slowed, throttled_share
from processes import coordinator, process
from record import record

from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

WHOLE_QUOTA = 0.5  # of a core
QUOTAS = {"worker-0": 1.0, "worker-1": 1 / 4, "worker-2": 1 / 16}
TARGET_RATIO = 1.5
TARGET_OF_FASTEST = 1.5
SAME_ROUNDS, ASSIGNED_ROUNDS = 2, 8
SETTLING = 3
PATIENCE_S = 1800.0
RECIPE = """
name = "{name}"
[model]
architecture = "mlp"
hidden = [2048, 2048]
[data]
dataset = "synthetic"
samples = 24000
features = 16
partition = "iid"
workers = 3
[training]
batch_size = 128
lr = 0.01
validation_fraction = 0.0
threads = 1
partial_work = false
[algorithm]
name = "{algorithm}"
[rounds]
rounds = {rounds}
cohort = 3
deadline_s = 900.0
[evaluation]
coordinator = false
{levels}
"""
LEVELS = """[levels]
rates = [1.0, 0.71, 0.5, 0.35, 0.25, 0.18, 0.125]
assignment = "measured"
target_s = {target_s}
"""


@dataclass
class Times:
    """What each worker took in each round, and at which level (empty: the whole model)."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in QUOTAS})
    levels: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in QUOTAS})

    def median(self, after: int) -> dict[str, float]:
        """By worker, of the rounds after so many."""
        return {name: statistics.median(all_s[after:]) for name, all_s in self.seconds.items()}


def run(control: ControlServiceStub, text: str) -> Times:
    """Carry a recipe out; times are from the draw of a cohort to an update's receipt."""
    submitted = control.SubmitRun(pb.SubmitRunRequest(recipe=text), timeout=60).run
    times, begun_s = Times(), 0.0
    watch = control.WatchRun(pb.WatchRunRequest(run_id=submitted.run_id), timeout=PATIENCE_S)
    for reply in watch:
        event, fields = reply.event, json.loads(reply.event.fields_json or "{}")
        if event.kind == "cohort_selected":
            begun_s = event.at_s
            lanes = fields.get("lanes") or [""] * len(fields["workers"])
            for name, lane in zip(fields["workers"], lanes, strict=True):
                times.levels[name].append(lane or "a")
        elif event.kind == "update_accepted":
            name = fields["assignment_id"].rpartition("/")[2]
            times.seconds[name].append(event.at_s - begun_s)
    done = control.GetRun(pb.GetRunRequest(run_id=submitted.run_id), timeout=60).run
    if done.state != pb.RUN_STATE_COMPLETED:
        raise SystemExit(f"the run did not complete: {done.code}: {done.reason}")
    return times


def await_workers(control: ControlServiceStub) -> None:
    """Wait until all are connected."""
    until_s = time.monotonic() + 120
    while True:
        reply = control.ListWorkers(pb.ListWorkersRequest(), timeout=60, wait_for_ready=True)
        if sum(worker.connected for worker in reply.workers) == len(QUOTAS):
            return
        if time.monotonic() > until_s:
            raise SystemExit("the workers did not connect within two minutes")
        time.sleep(0.2)


def start(stack: ExitStack, folder: Path, address: str, name: str) -> int:
    """Start a worker; returns its process id."""
    child = stack.enter_context(
        process(
            (sys.executable, "-m", "fedfleet_worker"),
            folder / f"{name}.log",
            FEDFLEET_COORDINATOR=address,
            FEDFLEET_WORKER_ID=name,
            FEDFLEET_SHARD=name.rpartition("-")[2],
            FEDFLEET_STATE_DIR=str(folder / name),
            FEDFLEET_OPS_PORT="0",
            FEDFLEET_THREADS="1",
            OMP_NUM_THREADS="1",
        )
    )
    return child.pid


@dataclass(frozen=True)
class Measured:
    """One fleet's two runs.

    Args:
        same, assigned: with one model for all, and with measured levels.
        target_s: of these.
        throttled: of the periods in which a worker ran, the share in which its quota ended it.
        probes: what the workers measured of themselves: examples per second by level.
    """

    same: Times
    assigned: Times
    target_s: float
    throttled: Mapping[str, float]
    probes: Mapping[str, Mapping[str, float]]


def measure() -> Measured:
    """Run both."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(coordinator(folder))
        control = ControlServiceStub(stack.enter_context(grpc.insecure_channel(address)))
        groups = {
            name: stack.enter_context(slowed(WHOLE_QUOTA * share)) for name, share in QUOTAS.items()
        }
        pids = {name: start(stack, folder, address, name) for name in QUOTAS}
        await_workers(control)
        for name, group in groups.items():
            put_into(group, pids[name])
        same = run(control, recipe("fedavg", SAME_ROUNDS))
        target_s = TARGET_OF_FASTEST * min(same.median(1).values())
        assigned = run(control, recipe("heterofl", ASSIGNED_ROUNDS, target_s))
        throttled = {name: round(throttled_share(one), 2) for name, one in groups.items()}
        probes = {
            worker.worker_id: {one.level: round(one.samples_per_s) for one in worker.device.levels}
            for worker in control.ListWorkers(pb.ListWorkersRequest(), timeout=60).workers
        }
    return Measured(same, assigned, target_s, throttled, probes)


def recipe(algorithm: str, rounds: int, target_s: float | None = None) -> str:
    levels = "" if target_s is None else LEVELS.format(target_s=round(target_s, 3))
    return RECIPE.format(name=algorithm, algorithm=algorithm, rounds=rounds, levels=levels)


def spread(medians: Mapping[str, float]) -> float:
    return max(medians.values()) / min(medians.values())


def rounded(times: Sequence[float]) -> list[float]:
    return [round(seconds, 2) for seconds in times]


def figures(times: Times, after: int) -> dict[str, Any]:
    medians = times.median(after)
    return {
        "slowest_by_fastest": round(spread(medians), 2),
        "median_s": {name: round(seconds, 2) for name, seconds in medians.items()},
        "rounds_s": {name: rounded(all_s) for name, all_s in times.seconds.items()},
        "levels": {name: "".join(letters) for name, letters in times.levels.items()},
    }


def main() -> None:
    if not is_allowed():
        record("quota", None, reason="no control group with a CPU quota can be made here")
        return
    done = measure()
    shared = {"cores": {name: WHOLE_QUOTA * share for name, share in QUOTAS.items()}}
    record("quota_fedavg", None, **figures(done.same, 1), **shared)
    found = figures(done.assigned, SETTLING)
    record(
        "quota_levels",
        found["slowest_by_fastest"] <= TARGET_RATIO,
        **found,
        target_ratio=TARGET_RATIO,
        target_s=round(done.target_s, 2),
        probed_samples_per_s=done.probes,
        throttled_share=done.throttled,
        **shared,
    )


if __name__ == "__main__":
    main()
