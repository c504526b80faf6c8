"""ControlService: what operators and the command line ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256

from fedfleet.errors import InvalidInput, LimitExceeded, Unavailable
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.server import Context
from fedfleet.store.protocols import RunRecord, resolve
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import MAX_NAME
from fedfleet_coordinator.access_desk import AccessDesk
from fedfleet_coordinator.driver import LATEST
from fedfleet_coordinator.issuing import Issuing
from fedfleet_coordinator.messages import (
    alias_message,
    alias_messages,
    event_message,
    round_messages,
    run_message,
    version_message,
    worker_message,
)
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


class ControlServicer(AccessDesk):
    """Serves operators: runs, workers, versions; the rest is its base's."""

    def __init__(
        self, around: Surroundings, runs: RunQueue, bell: Bell, issuing: Issuing | None
    ) -> None:
        super().__init__(around.store, around.executors, around.trail, issuing)
        self._store = around.store
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

    # Versions

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        return await self._executors.io(lambda: self._list_versions(request.model))

    def _list_versions(self, model: str) -> pb.ListVersionsResponse:
        registry = self._store.registry
        response = pb.ListVersionsResponse()
        for name in [model] if model else registry.models():
            response.versions.extend(version_message(v) for v in registry.versions(name))
            response.aliases[name].aliases.extend(alias_messages(registry.aliases(name)))
        return response

    async def GetVersion(
        self, request: pb.GetVersionRequest, context: Context
    ) -> pb.GetVersionResponse:
        registry = self._store.registry
        version = await self._executors.io(
            lambda: resolve(registry, request.model, request.version)
        )
        aliases = await self._executors.io(lambda: registry.aliases(request.model))
        return pb.GetVersionResponse(
            version=version_message(version), aliases=alias_messages(aliases)
        )

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        if request.alias == LATEST:
            raise InvalidInput(
                f"alias {LATEST}: moves with every committed round; promote another alias and "
                "serve that one (FEDFLEET_SERVE_ALIAS)"
            )
        expected = request.expected_revision if request.HasField("expected_revision") else None
        record = await self._trail.act(
            "set_alias",
            f"model/{request.model}",
            lambda: self._executors.io(
                lambda: self._store.registry.set_alias(
                    request.model, request.alias, request.version, expected
                )
            ),
            alias=request.alias[:MAX_NAME],
            version=request.version,
            expected_revision=expected,
        )
        return pb.SetAliasResponse(alias=alias_message(record))
