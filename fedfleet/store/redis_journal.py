"""The journal in Redis: runs, their entries, accepted updates."""

from __future__ import annotations

from dataclasses import replace

from fedfleet.errors import AlreadyExists, Conflict, NotFound
from fedfleet.store.protocols import Entry, RunRecord, RunState, UpdateRecord
from fedfleet.store.redis_connection import Argument
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_records import (
    after,
    entry_of,
    entry_text,
    run_of,
    update_of,
    update_text,
)
from fedfleet.store.redis_scripts import ENTER, Script

_CREATE = Script(
    "ids runs run entries going",
    "run_id round live entry",
    f"""{ENTER}
if redis.call('EXISTS', run) == 1 then return done({{'exists'}}) end
redis.call('HSET', run, 'memory', '')
for i = more_args, #ARGV, 2 do redis.call('HSET', run, ARGV[i], ARGV[i + 1]) end
redis.call('RPUSH', runs, run_id)
if live == '1' then redis.call('HSET', going, run_id, round .. ' ') end
enter(entry)
return done({{'ok'}})
""",
)

_SET_STATE = Script(
    "ids run entries going",
    "run_id state live code reason at_s entry",
    f"""{ENTER}
local found = redis.call('HGET', run, 'state')
if not found then return done({{'no_run'}}) end
if redis.call('HEXISTS', going, run_id) == 0 then return done({{'ended', found}}) end
redis.call('HSET', run, 'state', state, 'code', code, 'reason', reason, 'updated_at_s', at_s)
if live == '0' then redis.call('HDEL', going, run_id) end
enter(entry)
local reply = redis.call('HGETALL', run)
table.insert(reply, 1, 'ok')
return done(reply)
""",
)

_APPEND = Script(
    "ids run entries",
    "entry",
    f"""{ENTER}
if redis.call('EXISTS', run) == 0 then return done({{'no_run'}}) end
return done({{'ok', enter(entry)}})
""",
)

_ACCEPT = Script(
    "ids run entries updates rounds blob refs",
    "run_id round assignment digest record entry",
    f"""{ENTER}
if redis.call('EXISTS', run) == 0 then return done({{'no_run'}}) end
local stored = redis.call('HGET', updates, assignment)
if stored then
  return done({{string.match(stored, '^%S*') == digest and 'same' or 'other'}})
end
if redis.call('EXISTS', blob) == 0 then return done({{'no_blob'}}) end
redis.call('HSET', updates, assignment, digest .. ' ' .. record)
local earlier = redis.call('HGET', rounds, assignment)
redis.call('HSET', rounds, assignment, earlier and earlier .. ',' .. round or round)
local newest = redis.call('HGET', refs, 'u ' .. run_id)
if not newest or tonumber(newest) < tonumber(round) then
  redis.call('HSET', refs, 'u ' .. run_id, round)
end
enter(entry)
return done({{'new'}})
""",
)


class RedisJournal:
    """Keeps the promises of ``Journal``."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._keys = server.keys

    def create_run(self, run: RunRecord, entry: Entry) -> None:
        keys = self._keys
        fields: list[Argument] = []
        for name, value in vars(run).items():
            fields += [name, value.value if isinstance(value, RunState) else value]
        reply = self._server.write(
            _CREATE,
            [keys.ids, keys.runs, keys.run(run.run_id), keys.entries(entry.run_id), keys.going],
            [run.run_id, run.round, _live(run.state), entry_text(entry), *fields],
        )
        if reply[0] == b"exists":
            raise AlreadyExists(f"there is a run {run.run_id!r} already: choose another id")

    def run(self, run_id: str) -> RunRecord:
        fields = self._server.read(("HGETALL", self._keys.run(run_id)))[0]
        if not fields:
            raise no_run(run_id)
        return run_of(fields)

    def runs(self) -> list[RunRecord]:
        ids = self._server.read(("LRANGE", self._keys.runs, 0, -1))[0]
        commands = [("HGETALL", self._keys.run(run_id.decode())) for run_id in ids]
        return [run_of(fields) for fields in self._server.read(*commands)] if commands else []

    def set_run_state(
        self, run_id: str, state: RunState, entry: Entry, *, code: str = "", reason: str = ""
    ) -> RunRecord:
        keys = self._keys
        reply = self._server.write(
            _SET_STATE,
            [keys.ids, keys.run(run_id), keys.entries(entry.run_id), keys.going],
            [run_id, state.value, _live(state), code, reason, entry.at_s, entry_text(entry)],
        )
        if reply[0] == b"ok":
            return run_of(reply[1:])
        raise run_over(run_id, reply)

    def append(self, entry: Entry) -> Entry:
        keys, run_id = self._keys, entry.run_id
        reply = self._server.write(
            _APPEND, [keys.ids, keys.run(run_id), keys.entries(run_id)], [entry_text(entry)]
        )
        if reply[0] == b"no_run":
            raise no_run(run_id)
        return replace(entry, event_id=int(reply[1]))

    def entries(self, run_id: str, *, after_id: int = 0, limit: int | None = None) -> list[Entry]:
        rows = after(self._server, self._keys.entries(run_id), after_id, limit)
        return [entry_of(run_id, event_id, text) for event_id, text in rows]

    def accept_update(self, update: UpdateRecord, entry: Entry) -> bool:
        keys, run_id, digest = self._keys, update.run_id, update.digest
        reply = self._server.write(
            _ACCEPT,
            [
                keys.ids,
                keys.run(run_id),
                keys.entries(entry.run_id),
                keys.updates(run_id, update.round),
                keys.rounds(run_id),
                keys.blob(digest),
                keys.refs(digest),
            ],
            [
                run_id,
                update.round,
                update.assignment_id,
                digest,
                update_text(update),
                entry_text(entry),
            ],
        )
        if reply[0] == b"no_run":
            raise no_run(run_id)
        if reply[0] == b"other":
            raise Conflict(
                f"assignment {update.assignment_id!r} has an update with another payload"
            )
        if reply[0] == b"no_blob":
            raise NotFound(f"the update's payload {digest!r} is not stored: send it")
        return reply[0] == b"new"

    def updates(self, run_id: str, round: int) -> list[UpdateRecord]:
        rows = self._server.read(("HGETALL", self._keys.updates(run_id, round)))[0]
        found = [
            update_of(run_id, round, *pair) for pair in zip(rows[::2], rows[1::2], strict=True)
        ]
        return sorted(found, key=lambda one: one.assignment_id)

    def update(self, run_id: str, round: int, assignment_id: str) -> UpdateRecord | None:
        key = self._keys.updates(run_id, round)
        text = self._server.read(("HGET", key, assignment_id))[0]
        return update_of(run_id, round, assignment_id.encode(), text) if text else None

    def find_update(self, run_id: str, rounds: range, assignment_id: str) -> UpdateRecord | None:
        text = self._server.read(("HGET", self._keys.rounds(run_id), assignment_id))[0]
        found = [round for round in map(int, text.split(b",")) if round in rounds] if text else []
        return self.update(run_id, min(found), assignment_id) if found else None

    def memory_digest(self, run_id: str) -> str:
        memory = self._server.read(("HGET", self._keys.run(run_id), "memory"))[0]
        if memory is None:
            raise no_run(run_id)
        return str(memory.decode())


def no_run(run_id: str) -> NotFound:
    """The error where a run is not there."""
    return NotFound(f"there is no run {run_id!r}")


def run_over(run_id: str, reply: list[bytes]) -> NotFound | Conflict:
    """The error where a run is not there or has ended."""
    if reply[0] == b"no_run":
        return no_run(run_id)
    return Conflict(f"run {run_id!r} is {reply[1].decode()}: that is final")


def _live(state: RunState) -> str:
    return "0" if state.final else "1"
