"""The registry in Redis: versions, aliases, and the events that followers read."""

from __future__ import annotations

import json

from fedfleet.errors import Conflict, NotFound
from fedfleet.store.protocols import AliasRecord, RegistryEvent, VersionRecord, check_alias
from fedfleet.store.records import from_text, schema_from_text
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_records import after
from fedfleet.store.redis_scripts import MOVE, Script

_SET_ALIAS = Script(
    "ids versions aliases events",
    "alias version expected event",
    f"""{MOVE}
if redis.call('HEXISTS', versions, version) == 0 then return done({{'no_version'}}) end
local revision = text(revision_of(alias))
if expected ~= '' and expected ~= revision then return done({{'moved', revision}}) end
return done({{'ok', move(alias, version, event)}})
""",
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

    def versions(self, model: str) -> list[VersionRecord]:
        rows = self._server.read(("HGETALL", self._keys.versions(model)))[0]
        numbers, texts = map(int, rows[::2]), rows[1::2]
        found = sorted(zip(numbers, texts, strict=True), reverse=True)
        return self._records(model, found)

    def newest_number(self, model: str) -> int:
        # Numbers are those from 1 on without a gap, and no version is ever removed.
        count: int = self._server.read(("HLEN", self._keys.versions(model)))[0]
        return count

    def version(self, model: str, number: int) -> VersionRecord:
        text = self._server.read(("HGET", self._keys.versions(model), number))[0]
        if text is None:
            raise _no_version(model, number)
        return self._records(model, [(number, text)])[0]

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
            [keys.ids, keys.versions(model), keys.aliases(model), keys.events],
            [
                alias,
                number,
                "" if expected_revision is None else expected_revision,
                event_text("alias", model, number, alias),
            ],
        )
        if reply[0] == b"no_version":
            raise _no_version(model, number)
        revision = int(reply[1])
        if reply[0] == b"moved":
            state = "somebody else has set it" if revision else "it does not exist yet"
            raise Conflict(
                f"alias {alias!r} of model {model!r} is at revision {revision}, "
                f"not {expected_revision}: {state}, look again"
            )
        return AliasRecord(model=model, alias=alias, number=number, revision=revision)

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


def version_text(version: VersionRecord) -> str:
    """What the registry keeps of a version, beside its model, its number and its schema."""
    apart = {"model", "number", "schema"}
    fields = {name: value for name, value in vars(version).items() if name not in apart}
    fields["schema_digest"] = version.schema.digest
    return json.dumps(fields, separators=(",", ":"))


def event_text(kind: str, model: str, number: int, alias: str = "") -> str:
    """What the registry keeps of an event, beside its id."""
    fields = {"kind": kind, "model": model, "number": number, "alias": alias}
    return json.dumps(fields, separators=(",", ":"))


def _no_version(model: str, number: int) -> NotFound:
    return NotFound(f"model {model!r} has no version {number}")
