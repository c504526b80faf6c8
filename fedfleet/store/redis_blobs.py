"""Blobs in Redis: a key for the size, and one for each MiB."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator

from fedfleet.errors import Conflict, NotFound, StoreUnavailable, TransferInvalid
from fedfleet.store.blob_writer import HeldBlobWriter
from fedfleet.store.protocols import BlobWriter
from fedfleet.store.redis_blob_writer import RedisBlobWriter
from fedfleet.store.redis_lanes import RedisServer
from fedfleet.store.redis_partials import CHUNK_BYTES, Partial, chunks_of
from fedfleet.store.redis_scripts import DROP_BLOB, Script

_DIGEST = re.compile("[0-9a-f]{64}")
# What is read, or put, with one question.
_BATCH = 8

_PUT = Script(
    "blob",
    "size",
    """
if redis.call('EXISTS', blob) == 0 then
  for i = more_keys, #KEYS do redis.call('SET', KEYS[i], ARGV[more_args + i - more_keys]) end
  redis.call('SET', blob, size)
end
return done({'ok'})
""",
)

# A write although nothing changes: what is there already is on the disk when it returns.
_TOUCH = Script("blob", "", "return done({redis.call('GET', blob) or ''})", when_full=True)

_DELETE = Script(
    "blob refs going",
    "digest",
    f"""{DROP_BLOB}
local why = needed()
if why then return done({{'needed', why}}) end
drop_blob()
return done({{'ok'}})
""",
    when_full=True,
)


class RedisBlobs:
    """Keeps the promises of ``Blobs``.

    A blob is there when its size is. What is coming lies beside it and is renamed, all of it in
    one script.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._keys = server.keys

    def put(self, data: bytes) -> str:
        digest, size = hashlib.sha256(data).hexdigest(), len(data)
        if size <= CHUNK_BYTES:
            chunks = [self._keys.chunk(digest, 0)] if data else []
            self._server.write(_PUT, [self._keys.blob(digest), *chunks], [size, data])
        elif not self._is_held(digest):
            partial = Partial(self._server, digest, size, uuid.uuid4().hex)
            if partial.open() is None:
                for start in range(0, size, _BATCH * CHUNK_BYTES):
                    partial.append(data[start : start + _BATCH * CHUNK_BYTES])
                partial.publish()
        return digest

    def writer(self, digest: str, size_bytes: int, key: str) -> BlobWriter:
        if not _DIGEST.fullmatch(digest) or size_bytes < 0:
            raise TransferInvalid(
                f"digest {digest[:80]!r}, size {size_bytes}: must be 64 hexadecimal digits "
                "in lower case, and 0 or more"
            )
        partial = Partial(self._server, digest, size_bytes, key)
        held = partial.open()
        if held is None:
            return RedisBlobWriter(partial)
        if held != size_bytes:
            raise TransferInvalid(f"blob {digest} has {held} bytes, {size_bytes} were announced")
        return HeldBlobWriter(digest, size_bytes, self._check_held)

    def size(self, digest: str) -> int | None:
        if not _DIGEST.fullmatch(digest):
            return None
        size = self._server.read(("GET", self._keys.blob(digest)))[0]
        return None if size is None else int(size)

    def read(self, digest: str, offset_bytes: int = 0, length: int | None = None) -> bytes:
        return b"".join(self._pieces(digest, offset_bytes, length))

    def view(self, digest: str) -> memoryview:
        return memoryview(self.read(digest))

    def delete(self, digest: str) -> None:
        size = self.size(digest)
        if size is None:
            return
        keys = self._keys
        chunks = [keys.chunk(digest, index) for index in range(chunks_of(size))]
        reply = self._server.write(
            _DELETE, [keys.blob(digest), keys.refs(digest), keys.going, *chunks], [digest]
        )
        if reply[0] == b"needed":
            raise Conflict(f"blob {digest} is needed by {reply[1].decode()}: it stays")

    def _pieces(self, digest: str, offset_bytes: int, length: int | None) -> Iterator[bytes]:
        size = self.size(digest)
        if size is None:
            raise _no_blob(digest)
        start = min(offset_bytes, size)
        stop = size if length is None else start + min(length, size - start)
        commands = []
        for index in range(start // CHUNK_BYTES, chunks_of(stop)):
            at = index * CHUNK_BYTES
            first, last = max(start - at, 0), min(stop - at, CHUNK_BYTES) - 1
            commands.append(("GETRANGE", self._keys.chunk(digest, index), first, last))
        left = stop - start
        for batch in range(0, len(commands), _BATCH):
            for piece in self._server.read(*commands[batch : batch + _BATCH]):
                left -= len(piece)
                yield piece
        if left:
            raise _no_blob(digest)  # any more

    def _is_held(self, digest: str) -> bool:
        reply = self._server.write(_TOUCH, [self._keys.blob(digest)])
        return reply[0] != b""

    def _check_held(self, digest: str) -> None:
        if not self._is_held(digest):
            raise StoreUnavailable(f"blob {digest} was deleted meanwhile: send it again")


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"there is no blob {digest[:80]!r}")
