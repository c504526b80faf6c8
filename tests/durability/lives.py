"""The processes of a killed run: a coordinator with its deaths, workers that outlive them all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
from durability.points import Target
from harness import process
from redis_process import RedisProcess

from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

HERE = Path(__file__).parent
# For what is asked of a coordinator that dies, and for a run to end after the last kill.
PATIENCE_S = 90.0
POLL_S = 0.02
DIAL = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))


@dataclass
class Lives:
    """What became of a coordinator.

    Args:
        deaths: where each life ended, in order.
        redis_deaths: of the store's server.
        exits: lives that ended by themselves, since their store was away.
        stuck: what the life that did not come to its point was to do; empty if there is none.
        status: of the last life, which is ended by SIGTERM.
    """

    deaths: list[str] = field(default_factory=list)
    redis_deaths: int = 0
    exits: int = 0
    stuck: str = ""
    status: int | None = None


class Doomed:
    """A coordinator that dies at its targets and is begun anew at once.

    Args:
        redis: its store's server, where that is killed too.
        redis_kills: seconds after the start of a life at which that is killed and for which it
            stays away, by the number of the life.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        targets: Sequence[Target],
        redis: RedisProcess | None = None,
        redis_kills: Mapping[int, tuple[float, float]] | None = None,
    ) -> None:
        plan = json.dumps([asdict(target) for target in targets])
        script = str(HERE / "doomed_coordinator.py")
        paths = (str(HERE.parent), os.environ.get("PYTHONPATH", ""))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FEDFLEET_")}
        self.lives = Lives()
        self._redis = redis
        self._redis_kills = dict(redis_kills or {})
        self._redis_lock = threading.Lock()
        self._timers: list[threading.Timer] = []
        self._process = subprocess.Popen(
            [sys.executable, script, plan, str(folder / "coordinator.log")],
            env={**clean, **settings, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdout=subprocess.PIPE,
            text=True,
        )

    def until_last(self) -> None:
        """Wait until the last life has begun, or one is stuck."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "died" not in told:
                self._begun(told["life"])
            elif told["died"] == "stuck":
                self.lives.stuck = json.dumps(told["target"])
            elif told["died"].startswith("exit"):
                self.lives.exits += 1
            else:
                self.lives.deaths.append(told["died"])
            if told.get("last"):
                return

    def _begun(self, life: int) -> None:
        planned = self._redis_kills.pop(life, None)
        if planned is not None and self._redis is not None:
            timer = threading.Timer(planned[0], self._kill_redis, (self._redis, planned[1]))
            self._timers.append(timer)
            timer.start()

    def _kill_redis(self, redis: RedisProcess, away_s: float) -> None:
        with self._redis_lock:
            redis.kill()
            time.sleep(away_s)
            redis.start()
            self.lives.redis_deaths += 1

    def stop(self) -> None:
        """End the last life well."""
        self._process.send_signal(signal.SIGTERM)
        self.lives.status = self._process.wait(PATIENCE_S)

    def close(self) -> None:
        """End whatever runs; the life that runs dies with its maker."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        for timer in self._timers:
            timer.join()


@contextmanager
def counted_fleet(addresses: str, count: int, folder: Path) -> Iterator[Path]:
    """Workers that are never killed; yields the file with what they were asked and did."""
    lines = folder / "ledger.jsonl"
    script = str(HERE / "counted_fleet.py")
    args = (script, addresses, str(count), str(folder / "workers"), str(lines))
    log = folder / "fleet.log"
    with process(log, *args) as child:
        yield lines
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0, log.read_text()[-4000:]


class Operator:
    """Asks a coordinator that may die before it answers."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=DIAL)
        self._control = ControlServiceStub(self._channel)

    def submit(self, recipe: str) -> str:
        """The run's id; looks for the run first, since the answer to a submission may be lost."""

        def once() -> str:
            runs = self._control.ListRuns(pb.ListRunsRequest(), timeout=10).runs
            if runs:
                return str(runs[0].run_id)
            request = pb.SubmitRunRequest(recipe=recipe)
            return str(self._control.SubmitRun(request, timeout=10).run.run_id)

        return str(self._persist(once))

    def until_over(self, run_id: str) -> bool:
        """Watch a run to its end; whether it came to one."""

        def once() -> bool:
            request = pb.WatchRunRequest(run_id=run_id)
            try:
                for _ in self._control.WatchRun(request, timeout=PATIENCE_S):
                    pass
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                return False
            return True

        return bool(self._persist(once))

    def _persist(self, once: Any) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return once()
            except grpc.RpcError as error:
                gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                if not gone or time.monotonic() > until_s:
                    raise
            time.sleep(POLL_S)  # it is being started

    def close(self) -> None:
        self._channel.close()
