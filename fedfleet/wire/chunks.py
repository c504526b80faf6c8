"""Cuts bytes into checksummed chunks, and checks that chunks come whole and in order."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator

from fedfleet.errors import ChecksumMismatch, StoreUnavailable, TransferInvalid
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.limits import CHUNK_BYTES

# A cut link loses the chunk on its way, and a stall is noticed between chunks: a chunk is what the
# link takes in a second or so, found by trying. The largest leaves room below CHUNK_BYTES for what
# else is lost with it.
FIRST_BYTES, MOST_BYTES = 1 << 14, CHUNK_BYTES // 2
FAST_S, SLOW_S = 1.0, 4.0


def chunks(
    read: Callable[[int, int], bytes],
    total_bytes: int,
    offset_bytes: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[pb.Chunk]:
    """Yield the chunks of a blob from an offset on: small at first, larger while they go fast.

    Args:
        read: gives ``length`` bytes from ``offset``; called as the consumer asks, so that no more
            than one chunk is in memory.
        clock: seconds; a chunk has been sent when the next one is asked for.

    Raises:
        StoreUnavailable: the blob ends before ``total_bytes``.
    """
    size = FIRST_BYTES
    while offset_bytes < total_bytes:
        data = read(offset_bytes, min(size, total_bytes - offset_bytes))
        if not data:
            raise StoreUnavailable(
                f"the stored blob ends at byte {offset_bytes} of {total_bytes}: it is damaged"
            )
        began_s = clock()
        yield pb.Chunk(offset_bytes=offset_bytes, data=data, crc32=zlib.crc32(data))
        offset_bytes += len(data)
        took_s = clock() - began_s
        if took_s < FAST_S:
            size = min(2 * size, MOST_BYTES)
        elif took_s > SLOW_S:
            size = max(size // 2, FIRST_BYTES)


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
