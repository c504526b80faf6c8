"""Lua scripts, one for each write: whole or not at all, fenced, and done once however often sent.

A script receives all its keys; it builds none. It begins by looking at its lane, which is one
writer's sequence of writes: the lane keeps the number and the reply of the last one. The same
number again is the same write, whose answer was lost: it gets the first reply. A lower number is a
write that its writer gave up meanwhile: it does nothing. Then it looks at the lease: a writer that
claimed the store and is not its owner any more does nothing either; one that is beats.

Numbers come and go as text: Lua's are doubles, and it prints large ones with an exponent. JSON
stays text: Lua could not tell an empty list from an empty object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# A writer gives a write up after seconds; its lane is kept far longer than that.
LANE_MS = 24 * 3600 * 1000

_OWN_KEYS = ("lease", "lane")
_OWN_ARGS = ("fence", "write_number", "keep_ms")

_PROLOGUE = """
local last = redis.call('HMGET', lane, 'number', 'reply')
if last[1] == write_number then
  redis.call('PEXPIRE', lane, keep_ms) -- a write, so that WAITAOF has something to wait for
  return cmsgpack.unpack(last[2])
elseif last[1] and tonumber(last[1]) > tonumber(write_number) then
  return {'stale'}
end
local function done(reply)
  redis.call('HSET', lane, 'number', write_number, 'reply', cmsgpack.pack(reply))
  redis.call('PEXPIRE', lane, keep_ms)
  return reply
end
local function text(count)
  return string.format('%.0f', count)
end
if fence ~= '' then
  if redis.call('HGET', lease, 'token') ~= fence then return done({'lost'}) end
  redis.call('HINCRBY', lease, 'beat', 1)
end
"""

# Needs ids and entries; gives the journal entry its id.
ENTER = """
local function enter(entry)
  local id = text(redis.call('HINCRBY', ids, 'entry', 1))
  redis.call('XADD', entries, id .. '-0', 'entry', entry)
  return id
end
"""
# Needs ids and events; tells the registry's followers.
ANNOUNCE = """
local function announce(event)
  local id = text(redis.call('HINCRBY', ids, 'event', 1))
  redis.call('XADD', events, id .. '-0', 'event', event)
end
"""
# Needs ids, aliases and events; gives the alias's new revision.
MOVE = (
    ANNOUNCE
    + """
local function revision_of(alias)
  local old = redis.call('HGET', aliases, alias)
  return old and tonumber(string.match(old, ' (%d+)$')) or 0
end
local function move(alias, number_text, event)
  local revision = text(revision_of(alias) + 1)
  redis.call('HSET', aliases, alias, number_text .. ' ' .. revision)
  announce(event)
  return revision
end
"""
)
# Needs ANNOUNCE, and all of a version's keys and arguments (redis_versions.py).
KEEP_VERSION = """
local function keep_version()
  redis.call('HSET', versions, number, version)
  redis.call('HSETNX', schemas, schema_digest, schema)
  redis.call('SADD', models, model)
  redis.call('HSET', refs, 'v ' .. needed_by, needed_by)
  announce(event)
end
"""
# Needs blob, refs, going and digest, and the blob's chunks from more_keys on. As _NEEDED in
# sqlite.py; the versions of the first stores share one field, 'v'.
DROP_BLOB = """
local function needed()
  local held = redis.call('HGETALL', refs)
  for i = 1, #held, 2 do
    local kind, run_id = string.sub(held[i], 1, 1), string.sub(held[i], 3)
    if kind == 'v' then return held[i + 1] end
    local live = redis.call('HGET', going, run_id)
    if live then
      local round, memory = string.match(live, '^(%S+) (.*)$')
      if kind == 'u' and tonumber(held[i + 1]) > tonumber(round) then
        return 'an update of run ' .. run_id
      elseif kind == 'm' and memory == digest then
        return 'the memory of run ' .. run_id
      end
    end
  end
end
local function drop_blob()
  redis.call('UNLINK', blob, refs)
  for i = more_keys, #KEYS do redis.call('UNLINK', KEYS[i]) end
end
"""


@dataclass(frozen=True)
class Script:
    """One write.

    Args:
        keys, args: names of the locals that hold them, with spaces between; further ones follow
            in KEYS from ``more_keys`` on and in ARGV from ``more_args`` on.
        body: ends with ``return done({STATUS, ...})``, a list of strings.
        when_full: whether it may run on a server that is full, since it makes room or takes none.
    """

    keys: str
    args: str
    body: str
    when_full: bool = False

    def __post_init__(self) -> None:
        names = (*self.key_names, *self.arg_names, "text", "done")
        assert len(set(names)) == len(names), "one name for two things"

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return (*_OWN_KEYS, *self.keys.split())

    @cached_property
    def arg_names(self) -> tuple[str, ...]:
        return (*_OWN_ARGS, *self.args.split())

    @cached_property
    def text(self) -> str:
        """The whole of it, as the server gets it."""
        keys, args = self.key_names, self.arg_names
        lines = [
            "#!lua flags=allow-oom" if self.when_full else "#!lua",
            *(f"local {name} = KEYS[{i}]" for i, name in enumerate(keys, 1)),
            *(f"local {name} = ARGV[{i}]" for i, name in enumerate(args, 1)),
            f"local more_keys, more_args = {len(keys) + 1}, {len(args) + 1}",
        ]
        return "\n".join(lines) + _PROLOGUE + self.body

    @cached_property
    def sha(self) -> str:
        """The name under which the server keeps it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def arguments(self, keys: Sequence[bytes], args: Sequence[bytes]) -> tuple[bytes | str, ...]:
        """What follows the script or its name in EVAL and EVALSHA."""
        assert len(keys) >= len(self.key_names)
        assert len(args) >= len(self.arg_names)
        return (str(len(keys)), *keys, *args)


# Takes a number of its lane, so that every write that was sent with a lower one does nothing.
VOID = Script("", "", "return done({'ok'})", when_full=True)
