"""The commit of a round in Redis: one script over journal, registry and blobs."""

from __future__ import annotations

from fedfleet.errors import Conflict
from fedfleet.store.protocols import RoundCommit, check_alias
from fedfleet.store.redis_connection import Argument
from fedfleet.store.redis_journal import run_over
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_records import entry_text
from fedfleet.store.redis_scripts import ENTER, KEEP_VERSION, MOVE, Script
from fedfleet.store.redis_versions import (
    VERSION_ARGS,
    VERSION_KEYS,
    alias_arguments,
    version_arguments,
    version_keys,
)
from fedfleet.store.refusals import no_blob, not_next

_COMMIT = Script(
    f"{VERSION_KEYS} run entries going memory_blob memory_refs",
    f"{VERSION_ARGS} run_id round at_s entry memory",
    f"""{ENTER}{MOVE}{KEEP_VERSION}
local found = redis.call('HMGET', run, 'state', 'round', 'model', 'begun')
if not found[1] then return done({{'no_run'}}) end
if redis.call('HEXISTS', going, run_id) == 0 then return done({{'ended', found[1]}}) end
local last, this = tonumber(found[2]), tonumber(round)
local is_initial = this == 0 and last == 0 and not found[4]
if not is_initial and this ~= last + 1 then return done({{'round', found[2]}}) end
local newest = redis.call('HLEN', versions)
if tonumber(number) ~= newest + 1 then return done({{'number', text(newest)}}) end
if redis.call('EXISTS', blob) == 0 then return done({{'no_blob', digest}}) end
if memory ~= '' and redis.call('EXISTS', memory_blob) == 0 then
  return done({{'no_blob', memory}})
end
keep_version()
for i = more_args, #ARGV, 2 do move(ARGV[i], number, ARGV[i + 1]) end
if memory ~= '' then redis.call('HSET', memory_refs, 'm ' .. run_id, '') end
redis.call('HSET', run, 'round', round, 'memory', memory, 'updated_at_s', at_s)
if model == found[3] and version_run == run_id then redis.call('HSET', run, 'begun', '1') end
redis.call('HSET', going, run_id, round .. ' ' .. memory)
enter(entry)
return done({{'ok'}})
""",
)


def commit_round(server: RedisServer, commit: RoundCommit) -> None:
    """Keep the promise of ``Store.commit_round``."""
    for alias in commit.aliases:
        check_alias(alias)
    reply = server.write(_COMMIT, _keys(server, commit), _arguments(commit))
    if reply[0] in (b"no_run", b"ended"):
        raise run_over(commit.run_id, reply)
    if reply[0] == b"round":
        raise Conflict(
            f"round {commit.round} of run {commit.run_id!r} cannot be committed: "
            f"its last committed round is {int(reply[1])}"
        )
    if reply[0] == b"number":
        raise not_next(commit.version, int(reply[1]))
    if reply[0] == b"no_blob":
        raise no_blob(reply[1].decode(), "round")


def _keys(server: RedisServer, commit: RoundCommit) -> list[str]:
    keys = server.keys
    # Without a memory its keys are not looked at.
    memory = commit.memory_digest or commit.version.digest
    return [
        *version_keys(keys, commit.version),
        keys.run(commit.run_id),
        keys.entries(commit.entry.run_id),
        keys.going,
        keys.blob(memory),
        keys.refs(memory),
    ]


def _arguments(commit: RoundCommit) -> list[Argument]:
    return [
        *version_arguments(commit.version),
        commit.run_id,
        commit.round,
        commit.entry.at_s,
        entry_text(commit.entry),
        commit.memory_digest,
        *alias_arguments(commit.version, commit.aliases),
    ]
