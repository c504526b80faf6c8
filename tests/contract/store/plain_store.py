"""What a store means, said as plainly as possible: dicts and lists, no disk, no threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from contract.store.builders import digest_of

from fedfleet.errors import AlreadyExists, Conflict, NotFound
from fedfleet.store.protocols import (
    AliasRecord,
    Entry,
    RegistryEvent,
    RoundCommit,
    RunRecord,
    RunState,
    UpdateRecord,
    VersionRecord,
)


class PlainStore:
    """Journal, registry, blobs and store in one object."""

    def __init__(self) -> None:
        self.journal = self.registry = self.blobs = self
        self._runs: dict[str, RunRecord] = {}
        self._memory: dict[str, str] = {}
        self._entries: list[Entry] = []
        self._updates: dict[tuple[str, int, str], UpdateRecord] = {}
        self._versions: dict[str, list[VersionRecord]] = {}
        self._aliases: dict[tuple[str, str], AliasRecord] = {}
        self._events: list[RegistryEvent] = []
        self._data: dict[str, bytes] = {}

    def create_run(self, run: RunRecord, entry: Entry) -> None:
        if run.run_id in self._runs:
            raise AlreadyExists(run.run_id)
        self._runs[run.run_id] = run
        self._memory[run.run_id] = ""
        self.append(entry)

    def run(self, run_id: str) -> RunRecord:
        return self._found(self._runs, run_id)

    def runs(self) -> list[RunRecord]:
        return list(self._runs.values())

    def set_run_state(
        self, run_id: str, state: RunState, entry: Entry, *, code: str = "", reason: str = ""
    ) -> RunRecord:
        run = self._open_run(run_id)
        self._runs[run_id] = replace(
            run, state=state, code=code, reason=reason, updated_at_s=entry.at_s
        )
        self.append(entry)
        return self._runs[run_id]

    def append(self, entry: Entry) -> Entry:
        self.run(entry.run_id)
        self._entries.append(replace(entry, event_id=len(self._entries) + 1))
        return self._entries[-1]

    def entries(self, run_id: str, *, after_id: int = 0, limit: int | None = None) -> list[Entry]:
        entries = [e for e in self._entries if e.run_id == run_id and e.event_id > after_id]
        return entries[:limit]

    def accept_update(self, update: UpdateRecord, entry: Entry) -> bool:
        self.run(update.run_id)
        key = (update.run_id, update.round, update.assignment_id)
        if key in self._updates:
            if self._updates[key].digest != update.digest:
                raise Conflict(update.assignment_id)
            return False
        self._found(self._data, update.digest)
        self._updates[key] = update
        self.append(entry)
        return True

    def updates(self, run_id: str, round: int) -> list[UpdateRecord]:
        return [u for key, u in sorted(self._updates.items()) if key[:2] == (run_id, round)]

    def memory_digest(self, run_id: str) -> str:
        return self._found(self._memory, run_id)

    def models(self) -> list[str]:
        return sorted(self._versions)

    def versions(
        self, model: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionRecord]:
        found = self._versions.get(model, [])[::-1]
        return [v for v in found if before is None or v.number < before][:limit]

    def version(self, model: str, number: int) -> VersionRecord:
        return self._found({v.number: v for v in self.versions(model)}, number)

    def aliases(self, model: str) -> dict[str, AliasRecord]:
        return {alias: a for (owner, alias), a in sorted(self._aliases.items()) if owner == model}

    def set_alias(
        self, model: str, alias: str, number: int, expected_revision: int | None = None
    ) -> AliasRecord:
        if self.version(model, number).retired_at_s is not None:
            raise Conflict(alias)
        old = self._aliases.get((model, alias))
        revision = old.revision if old else 0
        if expected_revision not in (None, revision):
            raise Conflict(alias)
        moved = AliasRecord(model=model, alias=alias, number=number, revision=revision + 1)
        self._aliases[model, alias] = moved
        self._announce("alias", model, number, alias)
        return moved

    def add(self, version: VersionRecord, aliases: tuple[str, ...] = ()) -> VersionRecord:
        versions = self._versions.get(version.model, [])
        if version.number != len(versions) + 1:
            raise Conflict("number")
        self._found(self._data, version.digest)
        self._versions[version.model] = [*versions, version]
        self._announce("version", version.model, version.number)
        for alias in aliases:
            self.set_alias(version.model, alias, version.number)
        return version

    def retire(self, model: str, number: int, at_s: float) -> VersionRecord:
        version = self.version(model, number)
        if version.retired_at_s is not None:
            self._drop(version.digest)
            return version
        if number in [alias.number for alias in self.aliases(model).values()]:
            raise Conflict("aliased")
        if number == len(self._versions[model]):
            raise Conflict("newest")
        run = self._runs.get(version.run_id)
        if run and not run.state.final and run.round <= version.round:
            raise Conflict("going")
        retired = replace(version, retired_at_s=at_s)
        self._versions[model][number - 1] = retired
        self._announce("retired", model, number)
        self._drop(version.digest)
        return retired

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        return self._events[after_id : after_id + limit]

    def commit_round(self, commit: RoundCommit) -> VersionRecord:
        run, version = self._open_run(commit.run_id), commit.version
        versions = self._versions.get(version.model, [])
        is_initial = commit.round == run.round == 0
        if is_initial and any(v.run_id == run.run_id for v in versions):
            raise Conflict("initial version again")
        if not is_initial and commit.round != run.round + 1:
            raise Conflict("round")
        if commit.memory_digest and version.number == len(versions) + 1:
            self._found(self._data, commit.memory_digest)
        self.add(version, commit.aliases)
        self._runs[run.run_id] = replace(run, round=commit.round, updated_at_s=commit.entry.at_s)
        self._memory[run.run_id] = commit.memory_digest
        self.append(commit.entry)
        return version

    def put(self, data: bytes) -> str:
        self._data[digest_of(data)] = data
        return digest_of(data)

    def size(self, digest: str) -> int | None:
        return len(self._data[digest]) if digest in self._data else None

    def read(self, digest: str, offset_bytes: int = 0, length: int | None = None) -> bytes:
        rest = self._found(self._data, digest)[offset_bytes:]
        return rest if length is None else rest[:length]

    def delete(self, digest: str) -> None:
        if digest in self._data and digest in self._needed():
            raise Conflict(digest)
        self._data.pop(digest, None)

    def _drop(self, digest: str) -> None:
        if digest not in self._needed():
            self._data.pop(digest, None)

    def _needed(self) -> Iterator[str]:
        for versions in self._versions.values():
            yield from (v.digest for v in versions if v.retired_at_s is None)
        for run in self._runs.values():
            if not run.state.final:
                yield self._memory[run.run_id]
                for update in self._updates.values():
                    if update.run_id == run.run_id and update.round > run.round:
                        yield update.digest

    def _open_run(self, run_id: str) -> RunRecord:
        run = self.run(run_id)
        if run.state.final:
            raise Conflict(run_id)
        return run

    def _announce(self, kind: str, model: str, number: int, alias: str = "") -> None:
        event_id = len(self._events) + 1
        self._events.append(
            RegistryEvent(event_id=event_id, kind=kind, model=model, number=number, alias=alias)
        )

    @staticmethod
    def _found(table, key):
        if key not in table:
            raise NotFound(str(key))
        return table[key]
