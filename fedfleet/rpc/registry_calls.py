"""The blocking calls about versions: look, name, roll back, retire, export, import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedfleet.errors import TransferInvalid
from fedfleet.rpc.connection import Connection
from fedfleet.v1 import control_service_pb2 as pb

# A transfer ends when its bytes stop moving, which the coordinator and keepalive notice; this only
# ends what moves, and never arrives.
TRANSFER_S = 24 * 3600.0
# What one request for events is answered with at most.
EVENTS_AT_ONCE = 1000


class RegistryCalls:
    """A part of ``ControlClient``; answers are the coordinator's messages."""

    _connection: Connection

    def list_versions(self, model: str = "", limit: int = 0) -> pb.ListVersionsResponse:
        """Ask for the versions, newest first, and aliases of a model (empty: of all).

        Asked for in as many answers as it takes.

        Args:
            limit: the newest so many of each model; 0 is all. Then nothing is ``older``.
        """
        listed = self._list_versions(model, limit)
        versions = {name: list[pb.Version]() for name in sorted(listed.aliases)}
        for version in listed.versions:
            versions[version.model].append(version)
        for name, found in versions.items():
            while name in listed.older and (not limit or len(found) < limit):
                before = listed.older.pop(name)
                page = self._list_versions(name, max(0, limit - len(found)), before)
                if not page.versions:
                    raise TransferInvalid("the coordinator did not send the versions that it has")
                found += page.versions
                listed.older.update(page.older)
        del listed.versions[:]
        for found in versions.values():
            listed.versions.extend(found)
        return listed

    def _list_versions(self, model: str, limit: int, before: int = 0) -> pb.ListVersionsResponse:
        """One answer: as many as fit into it."""
        with self._connection.errors():
            request = pb.ListVersionsRequest(model=model, limit=limit, before=before)
            timeout_s = self._connection.timeout_s
            return self._connection.control.ListVersions(request, timeout=timeout_s)

    def get_version(self, model: str, version: str) -> pb.GetVersionResponse:
        """Ask for one version by its number or an alias."""
        with self._connection.errors():
            request = pb.GetVersionRequest(model=model, version=version)
            timeout_s = self._connection.timeout_s
            return self._connection.control.GetVersion(request, timeout=timeout_s)

    def set_alias(
        self, model: str, alias: str, version: int, expected_revision: int | None = None
    ) -> pb.Alias:
        """Point an alias at a version; Conflict where it is at another revision than expected."""
        with self._connection.errors():
            request = pb.SetAliasRequest(
                model=model, alias=alias, version=version, expected_revision=expected_revision
            )
            timeout_s = self._connection.timeout_s
            return self._connection.control.SetAlias(request, timeout=timeout_s).alias

    def roll_back_alias(
        self, model: str, alias: str, expected_revision: int | None = None
    ) -> pb.RollBackAliasResponse:
        """Point an alias at the version that it named before; Conflict as of ``set_alias``."""
        with self._connection.errors():
            request = pb.RollBackAliasRequest(
                model=model, alias=alias, expected_revision=expected_revision
            )
            timeout_s = self._connection.timeout_s
            return self._connection.control.RollBackAlias(request, timeout=timeout_s)

    def retire_versions(
        self, model: str, keep: int, *, dry_run: bool = False
    ) -> pb.RetireVersionsResponse:
        """Let go of the bytes of all but the newest versions and those that are needed.

        Asked for as often as it takes: one call retires so many, a dry run tells all.
        """
        retired = pb.RetireVersionsResponse()
        while True:
            with self._connection.errors():
                request = pb.RetireVersionsRequest(model=model, keep=keep, dry_run=dry_run)
                timeout_s = self._connection.timeout_s
                part = self._connection.control.RetireVersions(request, timeout=timeout_s)
            retired.versions.extend(part.versions)
            retired.size_bytes += part.size_bytes
            if dry_run or not part.versions:
                return retired

    def list_registry_events(
        self, model: str = "", after_id: int = 0, limit: int = 0
    ) -> list[pb.RegistryEvent]:
        """Ask for events after an id, at most 1000 (which 0 asks for), of a model or of all."""
        with self._connection.errors():
            request = pb.ListRegistryEventsRequest(after_id=after_id, model=model, limit=limit)
            timeout_s = self._connection.timeout_s
            response = self._connection.control.ListRegistryEvents(request, timeout=timeout_s)
            return list(response.events)

    def all_registry_events(self, model: str = "") -> Iterator[pb.RegistryEvent]:
        """Yield every event, asked for in pieces."""
        after_id = 0
        while events := self.list_registry_events(model, after_id, EVENTS_AT_ONCE):
            yield from events
            after_id = events[-1].event_id

    def export_version(self, model: str, version: str) -> tuple[pb.ExportHeader, Iterator[bytes]]:
        """Ask for a version's bytes: its header, and what follows, as it is read."""
        with self._connection.errors():
            request = pb.ExportVersionRequest(model=model, version=version)
            call = self._connection.control.ExportVersion(request, timeout=TRANSFER_S)
            first = next(iter(call), None)
        if first is None or first.WhichOneof("part") != "header":
            raise TransferInvalid("the coordinator sent a version without its header")
        return first.header, self._chunks(call)

    def _chunks(self, call: Iterator[pb.ExportVersionResponse]) -> Iterator[bytes]:
        with self._connection.errors():
            for response in call:
                yield response.chunk

    def import_version(self, header: pb.ImportHeader, pieces: Iterable[bytes]) -> pb.Version:
        """Add a version from its header and its bytes in pieces of at most 1 MiB."""

        def requests() -> Iterator[pb.ImportVersionRequest]:
            yield pb.ImportVersionRequest(header=header)
            for piece in pieces:
                yield pb.ImportVersionRequest(chunk=piece)

        with self._connection.errors():
            call = self._connection.control.ImportVersion(requests(), timeout=TRANSFER_S)
            return call.version
