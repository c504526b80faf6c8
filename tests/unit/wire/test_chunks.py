from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import FedFleetError
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.chunks import FIRST_BYTES, MOST_BYTES, check_chunk, chunks
from fedfleet.wire.limits import CHUNK_BYTES, MAX_MESSAGE_BYTES

BLOB = bytes(range(256)) * 9000  # several chunks and a piece


def read(offset: int, length: int) -> bytes:
    return BLOB[offset : offset + length]


def chunk(data: bytes = b"abc", offset: int = 0, crc32: int | None = None) -> pb.Chunk:
    return pb.Chunk(
        offset_bytes=offset, data=data, crc32=zlib.crc32(data) if crc32 is None else crc32
    )


@given(st.integers(0, len(BLOB)))
def test_chunks_put_together_are_the_blob_from_the_offset_on(offset: int) -> None:
    held = offset
    received = []
    for piece in chunks(read, len(BLOB), offset):
        received.append(check_chunk(piece, held, len(BLOB)))
        held += len(received[-1])

    assert b"".join(received) == BLOB[offset:]
    assert held == len(BLOB)


def test_chunks_are_read_as_they_are_asked_for() -> None:
    asked = []

    def counted(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return read(offset, length)

    pieces = chunks(counted, len(BLOB))
    next(pieces)

    assert asked == [(0, FIRST_BYTES)]


def sizes(seconds_per_byte: float, total_bytes: int) -> list[int]:
    """Sizes of the chunks on a link of such a speed."""
    now_s, found = [0.0], []
    for piece in chunks(lambda _, length: bytes(length), total_bytes, 0, lambda: now_s[0]):
        found.append(len(piece.data))
        now_s[0] += len(piece.data) * seconds_per_byte
    return found


@pytest.mark.parametrize(
    ("bytes_per_s", "settled"),
    [(1e9, MOST_BYTES), (250e3, 1 << 18), (50e3, 1 << 16), (1e3, FIRST_BYTES)],
)
def test_chunks_take_a_second_or_so_on_every_link(bytes_per_s: float, settled: int) -> None:
    found = sizes(1 / bytes_per_s, 20 * MOST_BYTES)

    assert found[0] == FIRST_BYTES
    assert set(found[10:-1]) == {settled}
    assert max(found) <= MOST_BYTES


def test_chunks_get_smaller_when_the_link_gets_slower() -> None:
    now_s, found = [0.0], []
    for piece in chunks(lambda _, length: bytes(length), 8 * MOST_BYTES, 0, lambda: now_s[0]):
        found.append(len(piece.data))
        now_s[0] += len(piece.data) / (1e9 if len(found) < 8 else 5e3)

    assert found[7] == MOST_BYTES
    assert set(found[20:-1]) == {FIRST_BYTES}


def test_chunk_and_its_envelope_fit_into_a_message() -> None:
    assert chunk(bytes(CHUNK_BYTES)).ByteSize() < MAX_MESSAGE_BYTES


def test_chunks_of_a_blob_that_ends_early_end_with_an_error() -> None:
    pieces = chunks(read, len(BLOB) + 1)

    with pytest.raises(FedFleetError, match=f"ends at byte {len(BLOB)} of") as caught:
        for _ in range(10):
            next(pieces)
    assert caught.value.code == "STORE_UNAVAILABLE"


def test_chunks_of_nothing_are_none() -> None:
    assert list(chunks(read, 0)) == []


@pytest.mark.parametrize(
    ("piece", "code", "text"),
    [
        (chunk(offset=4), "TRANSFER_INVALID", "a chunk at byte 4, expected the one at 3"),
        (chunk(offset=0), "TRANSFER_INVALID", "a chunk at byte 0, expected the one at 3"),
        (chunk(b"", offset=3), "TRANSFER_INVALID", "a chunk of 0 bytes: must be 1 to 1048576"),
        (chunk(bytes(CHUNK_BYTES + 1), offset=3), "TRANSFER_INVALID", "a chunk of 1048577 bytes"),
        (chunk(bytes(8), offset=3), "TRANSFER_INVALID", "more than the announced 10 bytes"),
        (chunk(offset=3, crc32=1), "CHECKSUM_MISMATCH", "the chunk at byte 3 is damaged; send it"),
    ],
)
def test_chunk_is_refused(piece: pb.Chunk, code: str, text: str) -> None:
    with pytest.raises(FedFleetError, match=text) as caught:
        check_chunk(piece, 3, 10)
    assert caught.value.code == code


def test_damaged_chunk_may_be_sent_again_and_a_wrong_one_not() -> None:
    with pytest.raises(FedFleetError) as damaged:
        check_chunk(chunk(crc32=0), 0, 10)
    with pytest.raises(FedFleetError) as wrong:
        check_chunk(chunk(offset=1), 0, 10)

    assert (damaged.value.retryable, wrong.value.retryable) == (True, False)


@given(st.integers(0, 7), st.integers(0, 255))
def test_every_flipped_byte_is_noticed(place: int, flip: int) -> None:
    piece = chunk(b"12345678")
    data = bytearray(piece.data)
    data[place] ^= flip
    piece.data = bytes(data)

    if flip:
        with pytest.raises(FedFleetError):
            check_chunk(piece, 0, 8)
    else:
        assert check_chunk(piece, 0, 8) == b"12345678"
