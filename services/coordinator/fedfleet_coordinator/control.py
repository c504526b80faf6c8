"""ControlService: what operators and the command line ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256

from fedfleet.errors import LimitExceeded, Unavailable
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.server import Context
from fedfleet.store.protocols import RunRecord
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import STALL_S
from fedfleet_coordinator.issuing import Issuing
from fedfleet_coordinator.messages import (
    event_message,
    round_messages,
    run_message,
    worker_message,
)
from fedfleet_coordinator.registry_desk import RegistryDesk
from fedfleet_coordinator.runs import RunQueue, new_run_id
from fedfleet_coordinator.standings import Standings
from fedfleet_coordinator.surroundings import Surroundings

MAX_WATCHERS = 64


class Bell:
    """Wakes everybody who waits for the next change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.closed = False

    def close(self) -> None:
        """Wake everybody for the last time."""
        self.closed = True
        self.ring()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Set at the next ring."""
        return self._event


class ControlServicer(RegistryDesk):
    """Serves operators: runs and workers; the rest is its bases'."""

    def __init__(
        self,
        around: Surroundings,
        runs: RunQueue,
        bell: Bell,
        issuing: Issuing | None,
        stall_s: float = STALL_S,
    ) -> None:
        super().__init__(around, issuing, stall_s)
        self._fleet = around.fleet
        self._traffic = around.traffic
        self._runs = runs
        self._bell = bell
        self._watchers = 0
        self._standings = Standings(around.store.journal)

    # Runs

    async def SubmitRun(
        self, request: pb.SubmitRunRequest, context: Context
    ) -> pb.SubmitRunResponse:
        run_id = new_run_id()
        run = await self._trail.act(
            "submit_run",
            f"run/{run_id}",
            lambda: self._runs.submit(request.recipe, run_id),
            recipe_sha256=sha256(request.recipe.encode()).hexdigest(),
        )
        return pb.SubmitRunResponse(run=run_message(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        journal = self._store.journal
        run = await self._executors.io(lambda: journal.run(request.run_id))
        return await self._executors.io(lambda: self._get_run(run))

    def _get_run(self, run: RunRecord) -> pb.GetRunResponse:
        entries = self._store.journal.entries(run.run_id)
        card = card_of(parse_recipe(run.recipe))
        return pb.GetRunResponse(
            run=run_message(run), rounds=round_messages(entries), classes=card.classes
        )

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        runs = await self._executors.io(self._store.journal.runs)
        return pb.ListRunsResponse(runs=[run_message(run) for run in reversed(runs)])

    async def StopRun(self, request: pb.StopRunRequest, context: Context) -> pb.StopRunResponse:
        run_id = request.run_id
        run = await self._trail.act("stop_run", f"run/{run_id}", lambda: self._runs.stop(run_id))
        return pb.StopRunResponse(run=run_message(run))

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        if self._watchers >= MAX_WATCHERS:
            raise LimitExceeded(f"{MAX_WATCHERS} watchers are connected already; try again later")
        self._watchers += 1
        try:
            async for response in self._events(request.run_id, request.after_event_id):
                yield response
        finally:
            self._watchers -= 1

    async def _events(self, run_id: str, after_id: int) -> AsyncIterator[pb.WatchRunResponse]:
        journal = self._store.journal
        while True:
            changed = self._bell.next()
            run = await self._executors.io(lambda: journal.run(run_id))
            entries = await self._executors.io(
                lambda after=after_id: journal.entries(run_id, after_id=after)  # type: ignore[misc]
            )
            for entry in entries:
                after_id = entry.event_id
                yield pb.WatchRunResponse(event=event_message(entry))
            if run.state.final:
                return
            if self._bell.closed:
                raise Unavailable("the coordinator is stopping; watch again when it is back")
            await changed.wait()

    # Workers

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        active = self._runs.active
        run_id = active.run_id if active is not None else None
        names = sorted(self._fleet.known)
        parts = await self._executors.io(lambda: self._standings.of(run_id, names))
        moved = self._traffic.by_worker
        response = pb.ListWorkersResponse()
        for name in names:
            known = self._fleet.known[name]
            is_busy = self._runs.wants(known.session.assignment_id)
            message = worker_message(name, known, moved[name], parts[name], is_busy=is_busy)
            response.workers.append(message)
        return response
