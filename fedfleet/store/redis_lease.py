"""The lease in Redis: one hash. Nobody but its beat tells whether its owner lives."""

from __future__ import annotations

from fedfleet.errors import Conflict
from fedfleet.store.lease import LeaseRecord
from fedfleet.store.redis_connection import Argument, Reply
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_scripts import Script

_CLAIM = Script(
    "",
    "token holder beat lasts_s new_token new_holder new_beat new_lasts_s",
    """
local found = redis.call('HMGET', lease, 'token', 'holder', 'beat', 'lasts_s')
local seen = {token, holder, beat, lasts_s}
local none = {'0', '', '0', '0.0'}
for i = 1, 4 do
  if (found[i] or none[i]) ~= seen[i] then return done({'changed'}) end
end
redis.call('HSET', lease, 'token', new_token, 'holder', new_holder, 'beat', new_beat,
  'lasts_s', new_lasts_s)
return done({'ok'})
""",
    when_full=True,
)

# Every fenced write beats.
_RENEW = Script("", "", "return done({'ok'})", when_full=True)

_RELEASE = Script(
    "",
    "token",
    """
if redis.call('HGET', lease, 'token') ~= token then return done({'lost_it'}) end
redis.call('HSET', lease, 'holder', '')
return done({'ok'})
""",
    when_full=True,
)


class RedisLeases:
    """Keeps the promises of ``Leases`` for one claim."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._token = ""

    def read(self) -> LeaseRecord:
        names = ("token", "holder", "beat", "lasts_s")
        return _record(self._server.read(("HMGET", self._server.keys.lease, *names))[0])

    def is_dead(self, seen: LeaseRecord) -> bool:
        return not seen.holder

    def claim(self, seen: LeaseRecord, holder: str, lasts_s: float) -> LeaseRecord:
        taken = LeaseRecord(
            token=seen.token + 1, holder=holder, beat=seen.beat + 1, lasts_s=lasts_s
        )
        reply = self._server.write(_CLAIM, [], [*_words(seen), *_words(taken)], fence="")
        if reply[0] != b"ok":
            raise Conflict("the store's lease is not as it was seen")
        self._server.fence = self._token = str(taken.token)
        return taken

    def renew(self) -> None:
        self._server.write(_RENEW, [], fence=self._token)

    def release(self) -> None:
        reply = self._server.write(_RELEASE, [], [self._token], fence="")
        if reply[0] == b"ok":
            self._server.fence = ""  # while it stays fenced, it can never write again


def _words(record: LeaseRecord) -> list[Argument]:
    return [record.token, record.holder, record.beat, float(record.lasts_s)]


def _record(found: Reply) -> LeaseRecord:
    token, holder, beat, lasts_s = found
    return LeaseRecord(
        token=int(token or 0),
        holder=(holder or b"").decode(),
        beat=int(beat or 0),
        lasts_s=float(lasts_s or 0.0),
    )
