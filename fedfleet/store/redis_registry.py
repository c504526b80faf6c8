"""The registry in Redis: versions, aliases, and the events that followers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedfleet.store.protocols import AliasRecord, RegistryEvent, VersionRecord, check_alias
from fedfleet.store.records import from_text, schema_from_text
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_partials import chunks_of
from fedfleet.store.redis_records import after
from fedfleet.store.redis_scripts import ANNOUNCE, DROP_BLOB, KEEP_VERSION, MOVE, Script
from fedfleet.store.redis_versions import (
    VERSION_ARGS,
    VERSION_KEYS,
    alias_arguments,
    event_text,
    named,
    version_arguments,
    version_keys,
)
from fedfleet.store.refusals import (
    alias_moved,
    is_needed,
    is_retired,
    no_blob,
    no_version,
    not_next,
)

# Versions that one command asks for.
AT_ONCE = 100

_SET_ALIAS = Script(
    "ids versions retired aliases events",
    "alias version expected event",
    f"""{MOVE}
if redis.call('HEXISTS', versions, version) == 0 then return done({{'no_version'}}) end
if redis.call('HEXISTS', retired, version) == 1 then return done({{'retired'}}) end
local revision = text(revision_of(alias))
if expected ~= '' and expected ~= revision then return done({{'moved', revision}}) end
return done({{'ok', move(alias, version, event)}})
""",
)

_ADD = Script(
    VERSION_KEYS,
    VERSION_ARGS,
    f"""{MOVE}{KEEP_VERSION}
local newest = redis.call('HLEN', versions)
if tonumber(number) ~= newest + 1 then return done({{'number', text(newest)}}) end
if redis.call('EXISTS', blob) == 0 then return done({{'no_blob'}}) end
keep_version()
for i = more_args, #ARGV, 2 do move(ARGV[i], number, ARGV[i + 1]) end
return done({{'ok'}})
""",
)

_RETIRE = Script(
    "ids versions retired aliases events blob refs going",
    "number at_s version_run round digest needed_by event",
    f"""{ANNOUNCE}{DROP_BLOB}
local before = redis.call('HGET', retired, number)
if before then
  if not needed() then drop_blob() end
  return done({{'ok', before}})
end
local held = redis.call('HGETALL', aliases)
for i = 1, #held, 2 do
  if string.match(held[i + 1], '^(%d+) ') == number then return done({{'alias', held[i]}}) end
end
if tonumber(number) == redis.call('HLEN', versions) then return done({{'newest'}}) end
local live = redis.call('HGET', going, version_run)
if live and tonumber(string.match(live, '^(%S+)')) <= tonumber(round) then
  return done({{'going'}})
end
redis.call('HSET', retired, number, at_s)
redis.call('HDEL', refs, 'v ' .. needed_by)
if not needed() then drop_blob() end
announce(event)
return done({{'ok', at_s}})
""",
    when_full=True,
)

# The first stores noted only one of the versions that share a blob.
_SPELL_OUT = Script(
    "refs",
    "",
    """
if redis.call('HEXISTS', refs, 'v') == 1 then
  for i = more_args, #ARGV do redis.call('HSET', refs, 'v ' .. ARGV[i], ARGV[i]) end
  redis.call('HDEL', refs, 'v')
end
return done({'ok'})
""",
    when_full=True,
)


class RedisRegistry:
    """Keeps the promises of ``Registry``."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._keys = server.keys

    def models(self) -> list[str]:
        return sorted(
            name.decode() for name in self._server.read(("SMEMBERS", self._keys.models))[0]
        )

    def versions(
        self, model: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionRecord]:
        newest = self.newest_number(model)
        last = newest if before is None else min(newest, before - 1)
        count = last if limit is None else min(last, limit)
        numbers = range(last, last - count, -1)
        # In pieces: one command for all of a long run would hold up everybody else's.
        return [
            version
            for start in range(0, len(numbers), AT_ONCE)
            for version in self._numbered(model, numbers[start : start + AT_ONCE])
        ]

    def _numbered(self, model: str, numbers: Sequence[int]) -> list[VersionRecord]:
        """Versions that are there, by their numbers."""
        # A version is stored before it can be retired, and neither is ever undone.
        texts, retired = self._server.read(
            ("HMGET", self._keys.versions(model), *numbers),
            ("HMGET", self._keys.retired(model), *numbers),
        )
        records = self._records(model, list(zip(numbers, texts, strict=True)))
        return [
            version if since is None else replace(version, retired_at_s=float(since))
            for version, since in zip(records, retired, strict=True)
        ]

    def newest_number(self, model: str) -> int:
        # Numbers are those from 1 on without a gap, and no version is ever removed.
        count: int = self._server.read(("HLEN", self._keys.versions(model)))[0]
        return count

    def version(self, model: str, number: int) -> VersionRecord:
        text, retired = self._server.read(
            ("HGET", self._keys.versions(model), number),
            ("HGET", self._keys.retired(model), number),
        )
        if text is None:
            raise no_version(model, number)
        version = self._records(model, [(number, text)])[0]
        return version if retired is None else replace(version, retired_at_s=float(retired))

    def aliases(self, model: str) -> dict[str, AliasRecord]:
        rows = self._server.read(("HGETALL", self._keys.aliases(model)))[0]
        found = {}
        for name, text in sorted(zip(rows[::2], rows[1::2], strict=True)):
            number, revision = map(int, text.split())
            alias = name.decode()
            found[alias] = AliasRecord(model=model, alias=alias, number=number, revision=revision)
        return found

    def set_alias(
        self, model: str, alias: str, number: int, expected_revision: int | None = None
    ) -> AliasRecord:
        check_alias(alias)
        keys = self._keys
        reply = self._server.write(
            _SET_ALIAS,
            [
                keys.ids,
                keys.versions(model),
                keys.retired(model),
                keys.aliases(model),
                keys.events,
            ],
            [
                alias,
                number,
                "" if expected_revision is None else expected_revision,
                event_text("alias", model, number, alias),
            ],
        )
        if reply[0] == b"no_version":
            raise no_version(model, number)
        if reply[0] == b"retired":
            raise is_retired(model, number)
        revision = int(reply[1])
        if reply[0] == b"moved":
            raise alias_moved(model, alias, revision, expected_revision)
        return AliasRecord(model=model, alias=alias, number=number, revision=revision)

    def add(self, version: VersionRecord, aliases: tuple[str, ...] = ()) -> VersionRecord:
        for alias in aliases:
            check_alias(alias)
        arguments = [*version_arguments(version), *alias_arguments(version, aliases)]
        reply = self._server.write(_ADD, version_keys(self._keys, version), arguments)
        if reply[0] == b"number":
            raise not_next(version, int(reply[1]))
        if reply[0] == b"no_blob":
            raise no_blob(version.digest, "version")
        return version

    def retire(self, model: str, number: int, at_s: float) -> VersionRecord:
        version = self.version(model, number)
        keys, digest = self._keys, version.digest
        size, unspelt = self._server.read(
            ("GET", keys.blob(digest)), ("HGET", keys.refs(digest), "v")
        )
        if unspelt is not None:
            self._spell_out(digest)
        chunks = [keys.chunk(digest, index) for index in range(chunks_of(int(size or 0)))]
        reply = self._server.write(
            _RETIRE,
            [
                keys.ids,
                keys.versions(model),
                keys.retired(model),
                keys.aliases(model),
                keys.events,
                keys.blob(digest),
                keys.refs(digest),
                keys.going,
                *chunks,
            ],
            [
                number,
                at_s,
                version.run_id,
                version.round,
                digest,
                named(version),
                event_text("retired", model, number),
            ],
        )
        if reply[0] == b"alias":
            raise is_needed(model, number, f"alias {reply[1].decode()!r} points at it")
        if reply[0] == b"newest":
            raise is_needed(model, number, "it is the newest")
        if reply[0] == b"going":
            raise is_needed(model, number, f"run {version.run_id} goes on from it")
        return replace(version, retired_at_s=float(reply[1]))

    def _spell_out(self, digest: str) -> None:
        """Note every version that needs a blob, where a first store noted only one."""
        needing = [
            named(version)
            for model in self.models()
            for version in self.versions(model)
            if version.digest == digest and version.retired_at_s is None
        ]
        self._server.write(_SPELL_OUT, [self._keys.refs(digest)], needing)

    def events(self, after_id: int = 0, limit: int = 1000) -> list[RegistryEvent]:
        rows = after(self._server, self._keys.events, after_id, limit)
        return [RegistryEvent(event_id=event_id, **from_text(text)) for event_id, text in rows]

    def _records(self, model: str, rows: list[tuple[int, bytes]]) -> list[VersionRecord]:
        if not rows:
            return []
        records = [(number, from_text(text)) for number, text in rows]
        digests = sorted({fields["schema_digest"] for _, fields in records})
        texts = self._server.read(("HMGET", self._keys.schemas, *digests))[0]
        schemas = {
            digest: schema_from_text(text.decode())
            for digest, text in zip(digests, texts, strict=True)
        }
        return [
            VersionRecord(
                model=model, number=number, schema=schemas[fields.pop("schema_digest")], **fields
            )
            for number, fields in records
        ]
