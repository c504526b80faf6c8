from __future__ import annotations

import math
import tracemalloc
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.encoded import Encoded, square_norm
from fedfleet.codecs.sparse import kept
from fedfleet.errors import FedFleetError, UpdateInvalid

VALUES = np.random.default_rng(0).standard_t(3, 50_000).astype(np.float32)


@given(st.integers(1, 10_000), st.integers(0, 10**7))
def test_kept_takes_the_ratio_as_the_decimal_that_is_written(tenthousandths: int, n: int) -> None:
    ratio = float(f"{tenthousandths / 10_000:.4f}")

    assert kept(ratio, n) == math.ceil(Fraction(tenthousandths, 10_000) * n)


def test_kept_of_seven_percent_of_a_hundred_is_seven() -> None:
    assert math.ceil(0.07 * 100) == 8
    assert kept(0.07, 100) == 7


@pytest.mark.parametrize(("ratio", "bits"), [(0.01, 0.0911), (0.001, 0.0125)])
def test_stc_costs_the_bits_per_weight_of_the_paper(ratio: float, bits: float) -> None:
    values = np.random.default_rng(0).normal(size=4_000_000).astype(np.float32)

    encoded = parse_chain(f"stc:{ratio}").encode(values, 0)

    assert 8 * len(encoded.data) / values.size == pytest.approx(bits, rel=0.01)


def test_stc_sends_the_mean_magnitude_with_its_sign() -> None:
    values = np.array([0, 5, -1, 0.5, -3, 0, 0.1, 0], np.float32)
    chain = parse_chain("stc:0.25")

    decoded = chain.decode(chain.encode(values, 0))

    np.testing.assert_array_equal(decoded, [0, 4, 0, 0, -4, 0, 0, 0])
    assert chain.error_bound(values).worst == pytest.approx(square_norm(values) - 2 * 16, rel=1e-4)


def test_topk_keeps_the_values_bit_for_bit() -> None:
    chain = parse_chain("topk:0.02")
    positions, values = chain.decode_sparse(chain.encode(VALUES, 0))

    np.testing.assert_array_equal(values, VALUES[positions])
    assert np.abs(values).min() >= np.abs(np.delete(VALUES, positions)).max()


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.1, 0.5])
def test_topk_contracts_as_stich_says(ratio: float) -> None:
    chain = parse_chain(f"topk:{ratio}")
    error = square_norm(chain.decode(chain.encode(VALUES, 0)) - VALUES)

    assert error <= (1 - ratio) * square_norm(VALUES)


def damaged(text: str) -> list[tuple[str, bytes]]:
    data = bytes(parse_chain(text).encode(VALUES, 0).data)
    positions = int.from_bytes(data[:8], "little")
    tail = 8 + positions
    return [
        ("nothing", b""),
        ("half a head", data[:4]),
        ("head only", data[:8]),
        ("positions past the end", (len(data) - 7).to_bytes(8, "little") + data[8:]),
        ("a huge length", (2**64 - 1).to_bytes(8, "little") + data[8:]),
        ("positions one byte short", (positions - 1).to_bytes(8, "little") + data[8:]),
        ("no values", data[:tail]),
        ("values cut", data[:-3]),
        ("values too many", data + b"\0"),
        ("far too many bytes", data + bytes(len(data) + 100_000)),
    ]


@pytest.mark.parametrize("text", ["topk:0.01", "topk:0.01|int8", "topk:0.01|eden:2", "stc:0.01"])
@pytest.mark.parametrize("case", range(10))
def test_sparse_decoder_refuses_damaged_bytes(text: str, case: int) -> None:
    chain = parse_chain(text)
    _, data = damaged(text)[case]

    with pytest.raises(UpdateInvalid) as caught:
        chain.decode(Encoded(chain.steps, VALUES.size, data))
    assert caught.value.code == "UPDATE_INVALID"


@pytest.mark.parametrize(("text", "most"), [("topk:0.01|int8", 500), ("int8|deflate", 30_000)])
def test_decoder_never_inflates_more_than_the_values_need(text: str, most: int) -> None:
    chain = parse_chain(text)
    data = bytes(chain.encode(VALUES, 0).data)
    head = data[: 8 + int.from_bytes(data[:8], "little")] if chain.is_sparse else b""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (packer.compress(bytes(10**8)) + packer.flush())[:most]
    encoded = Encoded(chain.steps, VALUES.size, head + most.to_bytes(4, "little") + bomb)
    decode = chain.decode_sparse if chain.is_sparse else chain.decode

    tracemalloc.start()
    with pytest.raises(FedFleetError, match="do not come to"):
        decode(encoded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 300_000 + (0 if chain.is_sparse else 8 * VALUES.size)
