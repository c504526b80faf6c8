"""The part of ControlService about versions and their aliases."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fedfleet.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from fedfleet.rpc.server import Context
from fedfleet.store.alias_history import LATEST, numbers_of, version_before
from fedfleet.store.protocols import AliasRecord, RegistryEvent, VersionRecord, no_model, resolve
from fedfleet.store.version_numbers import ranges_of
from fedfleet.store.version_pages import each_version
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES, MAX_MESSAGE_BYTES, MAX_NAME, STALL_S
from fedfleet_coordinator.access_desk import AccessDesk
from fedfleet_coordinator.importing import Importing
from fedfleet_coordinator.issuing import Issuing
from fedfleet_coordinator.messages import (
    alias_message,
    alias_messages,
    newest_messages,
    registry_event_message,
    version_message,
)
from fedfleet_coordinator.retention import freed_by, gone_of, retirable, retire_all
from fedfleet_coordinator.surroundings import Surroundings

MAX_EXPORTS = 8
MAX_EVENTS = 1000
MAX_QUIET = 1000  # models of which is known where no event of theirs is
MAX_RETIRED = 200  # by one call: each is a transaction, and the caller waits
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
        self._holds = around.holds
        self._importing = Importing(around, stall_s)
        self._exports = 0
        # By model: between these two ids, the second included, is no event of it.
        self._quiet: dict[str, tuple[int, int]] = {}

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        if request.before and not request.model:
            raise InvalidInput("before: names no version without a model; name one")
        return await self._executors.io(
            lambda: self._list_versions(request.model, request.before or None, request.limit)
        )

    def _list_versions(self, model: str, before: int | None, limit: int) -> pb.ListVersionsResponse:
        registry = self._store.registry
        # What is committed meanwhile is newer than all that is told, and is told in no answer.
        above = {
            name: 1 + registry.newest_number(name)
            for name in ([model] if model else registry.models())
        }
        if before is not None:
            above[model] = min(before, above[model])
        versions = {
            name: each_version(registry, name, first, limit or None)
            for name, first in above.items()
        }
        response = pb.ListVersionsResponse(versions=newest_messages(versions, MAX_LISTED_BYTES))
        for name in above:
            response.aliases[name].aliases.extend(alias_messages(registry.aliases(name)))
        for version in response.versions:
            above[version.model] = min(above[version.model], version.number)
        # Numbers have no gaps: there is something older than all but the first.
        response.older.update({name: lowest for name, lowest in above.items() if lowest > 1})
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
        expected = request.expected_revision if request.HasField("expected_revision") else None

        async def work() -> AliasRecord:
            _check_movable(request.alias)
            return await self._executors.io(
                lambda: self._store.registry.set_alias(
                    request.model, request.alias, request.version, expected
                )
            )

        record = await self._trail.act(
            "set_alias",
            f"model/{request.model}",
            work,
            alias=request.alias[:MAX_NAME],
            version=request.version,
            expected_revision=expected,
        )
        return pb.SetAliasResponse(alias=alias_message(record))

    async def RollBackAlias(
        self, request: pb.RollBackAliasRequest, context: Context
    ) -> pb.RollBackAliasResponse:
        expected = request.expected_revision if request.HasField("expected_revision") else None

        async def work() -> tuple[int, AliasRecord]:
            _check_movable(request.alias)
            return await self._executors.io(
                lambda: self._roll_back(request.model, request.alias, expected)
            )

        left, record = await self._trail.act(
            "roll_back_alias",
            f"model/{request.model}",
            work,
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
            retired = numbers_of(registry, model, alias)[:-1]
            some = f" ({ranges_of(retired)}: retired)" if retired else ""
            raise NotFound(
                f"alias {alias!r} of model {model!r} has named no other version whose bytes are "
                f"kept{some}: choose one, and promote it"
            )
        # By the revision that was read: the way back is that of the version that is left.
        moved = registry.set_alias(model, alias, before.number, current.revision)
        return current.number, moved

    # Retirement

    async def RetireVersions(
        self, request: pb.RetireVersionsRequest, context: Context
    ) -> pb.RetireVersionsResponse:
        if request.dry_run:
            would = await self._executors.io(lambda: self._retirable(request.model, request.keep))
            size_bytes = await self._executors.io(lambda: freed_by(self._store, would))
            return _retired_message(would, size_bytes)
        try:
            old = await self._executors.io(lambda: self._retirable(request.model, request.keep))
        except (InvalidInput, NotFound) as error:
            await self._trail.refuse(
                "retire_versions", f"model/{request.model}", error, keep=request.keep
            )
            raise
        # A caller that waits for its answer asks again until nothing is left.
        piece = old[:MAX_RETIRED]
        if not piece:
            return _retired_message([], 0)
        done = await self._trail.act(
            "retire_versions",
            f"model/{request.model}",
            lambda: self._executors.io(lambda: retire_all(self._store, piece, self._holds)),
            keep=request.keep,
            versions=ranges_of(version.number for version in piece),
        )
        size_bytes = await self._executors.io(lambda: gone_of(self._store, done))
        return _retired_message(done, size_bytes)

    def _retirable(self, model: str, keep: int) -> list[VersionRecord]:
        if keep < 1:
            raise InvalidInput("keep: must be 1 or more")
        if not self._store.registry.newest_number(model):
            raise no_model(model, self._store.registry.models())
        return retirable(self._store, model, keep, self._holds)

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
        # Who follows one model is not to read all the others' events at each look.
        first, last = self._quiet.get(model, (after_id, after_id))
        if first <= after_id < last:
            after_id = last
        else:
            first = after_id
        while len(found) < limit and (page := registry.events(after_id, MAX_EVENTS)):
            found += [event for event in page if model in ("", event.model)]
            after_id = page[-1].event_id
        if model and len(found) <= limit:
            if len(self._quiet) >= MAX_QUIET:
                self._quiet.clear()
            self._quiet[model] = (found[-1].event_id if found else first, after_id)
        return found[:limit]


def _retired_message(versions: list[VersionRecord], size_bytes: int) -> pb.RetireVersionsResponse:
    numbers = [version.number for version in versions]
    return pb.RetireVersionsResponse(versions=numbers, size_bytes=size_bytes)


def _check_movable(alias: str) -> None:
    if alias == LATEST:
        raise InvalidInput(
            f"alias {LATEST}: moves with every committed round; promote another alias and "
            "serve that one (FEDFLEET_SERVE_ALIAS)"
        )
