"""Cuts bytes into checksummed chunks, and checks that chunks come whole and in order."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from fedfleet.errors import ChecksumMismatch, StoreUnavailable, TransferInvalid
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES


def chunks(
    read: Callable[[int, int], bytes], total_bytes: int, offset_bytes: int = 0
) -> Iterator[pb.Chunk]:
    """Yield the chunks of a blob from an offset on.

    Args:
        read: gives ``length`` bytes from ``offset``; called as the consumer asks, so that no more
            than one chunk is in memory.

    Raises:
        StoreUnavailable: the blob ends before ``total_bytes``.
    """
    while offset_bytes < total_bytes:
        data = read(offset_bytes, min(CHUNK_BYTES, total_bytes - offset_bytes))
        if not data:
            raise StoreUnavailable(
                f"the stored blob ends at byte {offset_bytes} of {total_bytes}: it is damaged"
            )
        yield pb.Chunk(offset_bytes=offset_bytes, data=data, crc32=zlib.crc32(data))
        offset_bytes += len(data)


def check_chunk(chunk: pb.Chunk, offset_bytes: int, total_bytes: int) -> bytes:
    """Return a chunk's data if it is the next piece of a blob of ``total_bytes``.

    Raises:
        TransferInvalid: out of order, empty, larger than a chunk, or beyond the blob's end.
        ChecksumMismatch: the data are not what was sent.
    """
    size = len(chunk.data)
    if chunk.offset_bytes != offset_bytes:
        raise TransferInvalid(
            f"a chunk at byte {chunk.offset_bytes}, expected the one at {offset_bytes}"
        )
    if not 0 < size <= CHUNK_BYTES:
        raise TransferInvalid(f"a chunk of {size} bytes: must be 1 to {CHUNK_BYTES}")
    if offset_bytes + size > total_bytes:
        raise TransferInvalid(f"more than the announced {total_bytes} bytes")
    if zlib.crc32(chunk.data) != chunk.crc32:
        raise ChecksumMismatch(f"the chunk at byte {offset_bytes} is damaged; send it again")
    return chunk.data
