from __future__ import annotations

import zlib

import numpy as np
import pytest

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.encoded import BLOCK, Encoded
from fedfleet.errors import UpdateInvalid
from fedfleet.types import FloatVector

HEAVY = np.random.default_rng(0).standard_t(3, 2 * BLOCK + 777).astype(np.float32)


def decode(text: str, values: FloatVector, data: bytes) -> FloatVector:
    chain = parse_chain(text)
    return chain.decode(Encoded(chain.steps, values.size, data))


@pytest.mark.parametrize(("text", "share"), [("int8", 0.85), ("int4:nearest", 0.65), ("int2", 0.6)])
def test_deflate_makes_codes_of_heavy_tailed_values_smaller(text: str, share: float) -> None:
    plain = parse_chain(text).encode(HEAVY, 1)
    packed = parse_chain(f"{text}|deflate").encode(HEAVY, 1)

    assert len(packed.data) < share * len(plain.data)


def test_segment_that_does_not_shrink_is_sent_plain() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, BLOCK, np.uint32).view(np.float32)
    chain = parse_chain("identity|deflate")

    data = bytes(chain.encode(noise, 0).data)

    assert data == (4 * BLOCK).to_bytes(4, "little") + noise.tobytes()
    assert len(data) == chain.max_bytes(BLOCK)


def test_zeros_take_a_bit_a_byte() -> None:
    chain = parse_chain("int8|deflate")
    zeros = np.zeros(10 * BLOCK, np.float32)

    data = chain.encode(zeros, 0).data

    assert zeros.size / 8 <= len(data) <= 1.05 * zeros.size / 8
    assert not decode("int8|deflate", zeros, bytes(data)).any()


def test_segments_are_decoded_one_by_one() -> None:
    chain = parse_chain("int8|deflate")
    data = bytearray(chain.encode(HEAVY, 1).data)
    second = 4 + int.from_bytes(data[:4], "little")
    data[second + 100] ^= 255
    whole = chain.decode(chain.encode(HEAVY, 1))

    blocks = chain.decode_blocks(Encoded(chain.steps, HEAVY.size, bytes(data)))

    start, first = next(blocks)
    np.testing.assert_array_equal(first, whole[:BLOCK])
    assert start == 0


def one(packed: bytes) -> bytes:
    return len(packed).to_bytes(4, "little") + packed


SEGMENT = bytes(4) + bytes(range(200)) + bytes(56)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes of int8|deflate for 256 elements, expected at most 264"),
        (bytes(300), "300 bytes of int8"),
        (bytes(40), "0 deflated bytes for 260"),
        (one(bytes(32)), "no encoder writes that"),
        ((2**32 - 1).to_bytes(4, "little") + bytes(100), "too early"),
        (one(SEGMENT)[:-1], "ends 1 bytes too early"),
        (one(raw_deflate(SEGMENT)) + b"0", "1 bytes after the end"),
        (one(raw_deflate(SEGMENT) + b"0"), "do not come to 260 bytes"),
        (one(raw_deflate(SEGMENT)[:-1]), "do not come to 260 bytes"),
        (one(raw_deflate(SEGMENT + b"0")), "do not come to 260 bytes"),
        (one(raw_deflate(SEGMENT[:-1])), "do not come to 260 bytes"),
        (one(b"\x07" * 50), "damaged"),
    ],
)
def test_deflate_names_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(UpdateInvalid) as caught:
        decode("int8|deflate", HEAVY[:256], data)
    assert message in str(caught.value)
