"""A blob on its way into Redis: resumed at its offset by whoever opened it last."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from fedfleet.errors import ChecksumMismatch, TransferInvalid
from fedfleet.store.redis_connection import Argument
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_scripts import Script

CHUNK_BYTES = 1 << 20
# A partial blob that nobody has touched for a day is of an upload that will not be resumed. Its
# parts last longer: each is touched when it is written, and all when an upload is opened.
_KEPT_MS = 24 * 3600 * 1000
_PARTS_MS = 2 * _KEPT_MS
_BATCH = 8

_OPEN = Script(
    "blob partial",
    "owner digest size seen_digest seen_offset kept_ms parts_ms",
    """
local found = redis.call('HMGET', partial, 'digest', 'offset')
local offset = found[2] or '0'
if (found[1] or '') ~= seen_digest or offset ~= seen_offset then return done({'look_again'}) end
local stored = redis.call('GET', blob)
-- More than the size was kept for a size that was a lie.
if stored or found[1] ~= digest or tonumber(offset) > tonumber(size) then
  redis.call('UNLINK', partial)
  for i = more_keys, #KEYS do redis.call('UNLINK', KEYS[i]) end
  offset = '0'
end
if stored then return done({'held', stored}) end
for i = more_keys, #KEYS do redis.call('PEXPIRE', KEYS[i], parts_ms) end
redis.call('HSET', partial, 'owner', owner, 'digest', digest, 'offset', offset)
redis.call('PEXPIRE', partial, kept_ms)
return done({'ok', offset})
""",
)

# Each further key is followed, among the arguments, by where its bytes begin and the bytes.
_WRITE = Script(
    "partial",
    "owner offset new_offset kept_ms parts_ms",
    """
local found = redis.call('HMGET', partial, 'owner', 'offset')
if found[1] ~= owner or found[2] ~= offset then return done({'closed'}) end
for i = more_keys, #KEYS do
  local at = ARGV[more_args + 2 * (i - more_keys)]
  if at ~= '0' and redis.call('STRLEN', KEYS[i]) ~= tonumber(at) then return done({'closed'}) end
end
for i = more_keys, #KEYS do
  local at = more_args + 2 * (i - more_keys)
  if ARGV[at] == '0' then
    redis.call('SET', KEYS[i], ARGV[at + 1])
  else
    redis.call('APPEND', KEYS[i], ARGV[at + 1])
  end
  redis.call('PEXPIRE', KEYS[i], parts_ms)
end
redis.call('HSET', partial, 'offset', new_offset)
redis.call('PEXPIRE', partial, kept_ms)
return done({'ok'})
""",
)

# The further keys: first all parts, then all chunks that they become.
_PUBLISH = Script(
    "blob partial",
    "owner size chunk_bytes",
    """
local found = redis.call('HMGET', partial, 'owner', 'offset')
if found[1] ~= owner or found[2] ~= size then return done({'closed'}) end
local count = (#KEYS - more_keys + 1) / 2
if redis.call('EXISTS', blob) == 1 then
  for i = more_keys, more_keys + count - 1 do redis.call('UNLINK', KEYS[i]) end
  redis.call('UNLINK', partial)
  return done({'ok'})
end
for i = 0, count - 1 do
  local wanted = math.min(tonumber(chunk_bytes), tonumber(size) - i * tonumber(chunk_bytes))
  if redis.call('STRLEN', KEYS[more_keys + i]) ~= wanted then return done({'torn'}) end
end
for i = more_keys, more_keys + count - 1 do
  redis.call('RENAME', KEYS[i], KEYS[i + count])
  redis.call('PERSIST', KEYS[i + count])
end
redis.call('UNLINK', partial)
redis.call('SET', blob, size)
return done({'ok'})
""",
    when_full=True,
)

_DROP = Script(
    "partial",
    "owner",
    """
if redis.call('HGET', partial, 'owner') == owner then
  redis.call('UNLINK', partial)
  for i = more_keys, #KEYS do redis.call('UNLINK', KEYS[i]) end
end
return done({'ok'})
""",
    when_full=True,
)


class Partial:
    """One opening of a blob that is not stored yet; whoever opens it later takes it over.

    A key has one: what it began under another digest is dropped, so that whoever begins without
    end, and ends nothing, fills no memory.

    Attributes:
        offset_bytes: how much of it is there.
    """

    def __init__(self, server: RedisServer, digest: str, size_bytes: int, key: str) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.offset_bytes = 0
        self._server = server
        self._key = key
        self._owner = uuid.uuid4().hex

    def open(self) -> int | None:
        """Take it over; the size of the blob instead where that is stored already."""
        server = self._server
        partial = server.keys.partial(self._key)
        while True:
            digest, offset = server.read(("HMGET", partial, "digest", "offset"))[0]
            reply = server.write(
                _OPEN,
                [server.keys.blob(self.digest), partial, *self._parts(int(offset or 0))],
                [
                    self._owner,
                    self.digest,
                    self.size_bytes,
                    digest or "",
                    offset or "0",
                    _KEPT_MS,
                    _PARTS_MS,
                ],
            )
            if reply[0] == b"held":
                return int(reply[1])
            if reply[0] == b"ok":
                self.offset_bytes = int(reply[1])
                return None

    def append(self, data: bytes) -> None:
        """Add bytes in one step.

        Raises:
            TransferInvalid: another has opened it, or it was dropped after a day.
        """
        start, stop = self.offset_bytes, self.offset_bytes + len(data)
        parts: list[str] = []
        pieces: list[Argument] = []
        while start < stop:
            index, at = divmod(start, CHUNK_BYTES)
            end = min(stop, (index + 1) * CHUNK_BYTES)
            parts.append(self._server.keys.part(self._key, index))
            pieces += [at, data[start - self.offset_bytes : end - self.offset_bytes]]
            start = end
        reply = self._server.write(
            _WRITE,
            [self._server.keys.partial(self._key), *parts],
            [self._owner, self.offset_bytes, stop, _KEPT_MS, _PARTS_MS, *pieces],
        )
        if reply[0] != b"ok":
            raise taken_over()
        self.offset_bytes = stop

    def publish(self) -> None:
        """Make the whole of it the blob; the caller has checked its SHA-256.

        Raises:
            TransferInvalid: another has opened it, or it was dropped after a day.
            ChecksumMismatch: some of it was; the rest is dropped.
        """
        keys = self._server.keys
        parts = self._parts(self.size_bytes)
        chunks = [keys.chunk(self.digest, index) for index in range(len(parts))]
        reply = self._server.write(
            _PUBLISH,
            [keys.blob(self.digest), keys.partial(self._key), *parts, *chunks],
            [self._owner, self.size_bytes, CHUNK_BYTES],
        )
        if reply[0] == b"closed":
            raise taken_over()
        if reply[0] == b"torn":
            self.drop()
            raise ChecksumMismatch(f"blob {self.digest} came too slowly, some of it has gone")

    def drop(self) -> None:
        """Remove what has come, should it still be this opening's."""
        keys = [self._server.keys.partial(self._key), *self._parts(self.offset_bytes)]
        self._server.write(_DROP, keys, [self._owner])

    def pieces(self) -> Iterator[bytes]:
        """What has come, in order."""
        parts = self._parts(self.offset_bytes)
        for start in range(0, len(parts), _BATCH):
            commands = [("GET", part) for part in parts[start : start + _BATCH]]
            for piece in self._server.read(*commands):
                yield piece or b""

    def _parts(self, size_bytes: int) -> list[str]:
        keys = self._server.keys
        return [keys.part(self._key, i) for i in range(chunks_of(size_bytes))]


def chunks_of(size_bytes: int) -> int:
    """How many chunks hold so many bytes."""
    return -(-size_bytes // CHUNK_BYTES)


def taken_over() -> TransferInvalid:
    """The error of a writer that may not write any more."""
    return TransferInvalid("this transfer was closed, or another of the same blob took over")
