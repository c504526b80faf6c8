"""How an operator's program talks to a coordinator: blocking calls, each with a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

from fedfleet.errors import TimedOut, Unavailable
from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.access_calls import AccessCalls
from fedfleet.rpc.connection import Connection
from fedfleet.rpc.registry_calls import RegistryCalls
from fedfleet.rpc.retry import backoff_s
from fedfleet.v1 import control_service_pb2 as pb

CALL_S = 20.0
# A watch is many calls of this length, each from where the last one ended, so that a coordinator
# which went away without a word is noticed even where keepalive is filtered.
WATCH_CALL_S = 60.0
# For so long a watch waits for a coordinator that restarts.
AWAY_S = 30.0


class ControlClient(AccessCalls, RegistryCalls):
    """The coordinator's ControlService; answers are its messages. Safe from several threads.

    Every call raises what the coordinator raised, Unavailable where it cannot be reached, and
    TimedOut where it does not answer.

    Args:
        address: ``HOST:PORT``; nothing is dialled before the first call.
        insecure: FEDFLEET_INSECURE was set.
        credentials: who calls, and which coordinator is trusted; without them there is no TLS.

    Raises:
        SettingInvalid: not an address.
        InsecureAddress: beyond loopback without credentials, and not allowed by name.
    """

    def __init__(
        self,
        address: str,
        *,
        insecure: bool = False,
        credentials: Credentials | None = None,
        timeout_s: float = CALL_S,
    ) -> None:
        self._connection = Connection(address, insecure, credentials, timeout_s)
        self._stub = self._connection.control
        self._timeout_s = timeout_s

    def submit_run(self, recipe: str) -> pb.Run:
        """Queue a run of a recipe, a TOML text."""
        with self._connection.errors():
            request = pb.SubmitRunRequest(recipe=recipe)
            return self._stub.SubmitRun(request, timeout=self._timeout_s).run

    def get_run(self, run_id: str) -> pb.GetRunResponse:
        """Ask for a run, its committed rounds and its classes."""
        with self._connection.errors():
            return self._stub.GetRun(pb.GetRunRequest(run_id=run_id), timeout=self._timeout_s)

    def list_runs(self) -> list[pb.Run]:
        """Ask for all runs, newest first."""
        with self._connection.errors():
            return list(self._stub.ListRuns(pb.ListRunsRequest(), timeout=self._timeout_s).runs)

    def stop_run(self, run_id: str) -> pb.Run:
        """Ask that a run ends."""
        with self._connection.errors():
            return self._stub.StopRun(pb.StopRunRequest(run_id=run_id), timeout=self._timeout_s).run

    def watch_run(self, run_id: str, after_event_id: int = 0) -> Iterator[pb.RunEvent]:
        """Yield the events after an id, each once, until the run has ended.

        Outlasts a coordinator that comes back within half a minute.
        """
        away_since_s: float | None = None
        waits = backoff_s(0.2, 2.0)
        while True:
            try:
                for event in self._watch_once(run_id, after_event_id):
                    after_event_id = event.event_id
                    away_since_s, waits = None, backoff_s(0.2, 2.0)
                    yield event
                return
            except TimedOut:
                away_since_s = None
            except Unavailable:
                now_s = time.monotonic()
                if self._connection.is_closed:
                    raise
                away_since_s = now_s if away_since_s is None else away_since_s
                if now_s - away_since_s > AWAY_S:
                    raise
                time.sleep(next(waits))

    def _watch_once(self, run_id: str, after_event_id: int) -> Iterator[pb.RunEvent]:
        request = pb.WatchRunRequest(run_id=run_id, after_event_id=after_event_id)
        call = self._stub.WatchRun(request, timeout=WATCH_CALL_S)
        try:
            with self._connection.errors():
                for response in call:
                    yield response.event
        finally:
            call.cancel()

    def list_workers(self) -> list[pb.Worker]:
        """Ask for the workers that are or were connected, by id."""
        with self._connection.errors():
            request = pb.ListWorkersRequest()
            return list(self._stub.ListWorkers(request, timeout=self._timeout_s).workers)

    def close(self) -> None:
        """End every call in progress, also those of other threads."""
        self._connection.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
