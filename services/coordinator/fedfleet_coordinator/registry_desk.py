"""The part of ControlService about versions and their aliases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fedfleet.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from fedfleet.rpc.server import Context
from fedfleet.store.alias_history import version_before
from fedfleet.store.protocols import AliasRecord, RegistryEvent, VersionRecord, resolve
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES, MAX_MESSAGE_BYTES, MAX_NAME, STALL_S
from fedfleet_coordinator.access_desk import AccessDesk
from fedfleet_coordinator.driver import LATEST
from fedfleet_coordinator.importing import Importing
from fedfleet_coordinator.issuing import Issuing
from fedfleet_coordinator.messages import (
    alias_message,
    alias_messages,
    newest_messages,
    registry_event_message,
    version_message,
)
from fedfleet_coordinator.retention import retirable, retire_all
from fedfleet_coordinator.surroundings import Surroundings

MAX_EXPORTS = 8
MAX_EVENTS = 1000
# Of the versions that a list tells; the rest of a message is for the aliases.
MAX_LISTED_BYTES = MAX_MESSAGE_BYTES - (2 << 20)


class RegistryDesk(AccessDesk):
    """Serves operators.

    Args:
        stall_s: how long to wait for the next piece of an import.
    """

    def __init__(
        self, around: Surroundings, issuing: Issuing | None, stall_s: float = STALL_S
    ) -> None:
        super().__init__(around.store, around.executors, around.trail, issuing)
        self._store = around.store
        self._importing = Importing(around, stall_s)
        self._exports = 0

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        return await self._executors.io(lambda: self._list_versions(request.model))

    def _list_versions(self, model: str) -> pb.ListVersionsResponse:
        registry = self._store.registry
        names = [model] if model else registry.models()
        versions = {name: registry.versions(name) for name in names}
        response = pb.ListVersionsResponse(versions=newest_messages(versions, MAX_LISTED_BYTES))
        for name in names:
            response.aliases[name].aliases.extend(alias_messages(registry.aliases(name)))
        return response

    async def GetVersion(
        self, request: pb.GetVersionRequest, context: Context
    ) -> pb.GetVersionResponse:
        version = await self._resolve(request.model, request.version)
        registry = self._store.registry
        aliases = await self._executors.io(lambda: registry.aliases(request.model))
        return pb.GetVersionResponse(
            version=version_message(version), aliases=alias_messages(aliases)
        )

    async def _resolve(self, model: str, name: str) -> VersionRecord:
        return await self._executors.io(lambda: resolve(self._store.registry, model, name))

    # Aliases

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        _check_movable(request.alias)
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

    async def RollBackAlias(
        self, request: pb.RollBackAliasRequest, context: Context
    ) -> pb.RollBackAliasResponse:
        _check_movable(request.alias)
        expected = request.expected_revision if request.HasField("expected_revision") else None
        left, record = await self._trail.act(
            "roll_back_alias",
            f"model/{request.model}",
            lambda: self._executors.io(
                lambda: self._roll_back(request.model, request.alias, expected)
            ),
            alias=request.alias[:MAX_NAME],
            expected_revision=expected,
        )
        return pb.RollBackAliasResponse(alias=alias_message(record), left_version=left)

    def _roll_back(self, model: str, alias: str, expected: int | None) -> tuple[int, AliasRecord]:
        registry = self._store.registry
        resolve(registry, model, alias)  # says what there is where there is no such alias
        current = registry.aliases(model)[alias]
        before = version_before(registry, model, alias)
        if expected not in (None, current.revision):
            raise Conflict(
                f"alias {alias!r} of model {model!r} is at revision {current.revision}, not "
                f"{expected}: somebody else has set it, look again"
            )
        if before is None:
            raise NotFound(
                f"alias {alias!r} of model {model!r} has named no other version whose bytes are "
                "kept: choose one, and promote it"
            )
        # By the revision that was read: the way back is that of the version that is left.
        moved = registry.set_alias(model, alias, before.number, current.revision)
        return current.number, moved

    # Retirement

    async def RetireVersions(
        self, request: pb.RetireVersionsRequest, context: Context
    ) -> pb.RetireVersionsResponse:
        if request.keep < 1:
            raise InvalidInput("keep: must be 1 or more")
        await self._check_model(request.model)
        old = await self._executors.io(lambda: retirable(self._store, request.model, request.keep))
        if not request.dry_run:
            old = await self._trail.act(
                "retire_versions",
                f"model/{request.model}",
                lambda: self._executors.io(lambda: retire_all(self._store, old)),
                keep=request.keep,
                versions=len(old),
            )
        return pb.RetireVersionsResponse(
            versions=[version.number for version in old],
            size_bytes=sum({version.digest: version.size_bytes for version in old}.values()),
        )

    async def _check_model(self, model: str) -> None:
        if not await self._executors.io(lambda: self._store.registry.newest_number(model)):
            raise NotFound(f"there is no model {model[:80]!r}")

    # Export and import

    async def ExportVersion(
        self, request: pb.ExportVersionRequest, context: Context
    ) -> AsyncIterator[pb.ExportVersionResponse]:
        if self._exports >= MAX_EXPORTS:
            raise LimitExceeded(f"{MAX_EXPORTS} versions are being exported; try again later")
        self._exports += 1
        try:
            version = await self._resolve(request.model, request.version)
            if version.retired_at_s is not None:
                raise NotFound(
                    f"version {version.number} of model {version.model!r} is retired: its bytes "
                    "are no longer kept"
                )
            header = pb.ExportHeader(
                version=version_message(version), schema_json=json.dumps(version.schema.to_json())
            )
            yield pb.ExportVersionResponse(header=header)
            blobs, digest = self._store.blobs, version.digest
            for start in range(0, version.size_bytes, CHUNK_BYTES):
                data = await self._executors.io(
                    lambda at=start: blobs.read(digest, at, CHUNK_BYTES)  # type: ignore[misc]
                )
                yield pb.ExportVersionResponse(chunk=data)
        finally:
            self._exports -= 1

    async def ImportVersion(
        self, requests: AsyncIterator[pb.ImportVersionRequest], context: Context
    ) -> pb.ImportVersionResponse:
        version = await self._importing.take(requests)
        return pb.ImportVersionResponse(version=version_message(version))

    # Events

    async def ListRegistryEvents(
        self, request: pb.ListRegistryEventsRequest, context: Context
    ) -> pb.ListRegistryEventsResponse:
        limit = min(request.limit or MAX_EVENTS, MAX_EVENTS)
        events = await self._executors.io(
            lambda: self._registry_events(request.after_id, request.model, limit)
        )
        return pb.ListRegistryEventsResponse(events=map(registry_event_message, events))

    def _registry_events(self, after_id: int, model: str, limit: int) -> list[RegistryEvent]:
        registry, found = self._store.registry, list[RegistryEvent]()
        while len(found) < limit and (page := registry.events(after_id, MAX_EVENTS)):
            found += [event for event in page if model in ("", event.model)]
            after_id = page[-1].event_id
        return found[:limit]


def _check_movable(alias: str) -> None:
    if alias == LATEST:
        raise InvalidInput(
            f"alias {LATEST}: moves with every committed round; promote another alias and "
            "serve that one (FEDFLEET_SERVE_ALIAS)"
        )
