from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.codecs.packing import pack, packed_bytes, unpack


@given(st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_packing_gives_every_code_back_in_the_least_bytes(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8)

    packed = pack(codes, bits)

    assert packed.size == packed_bytes(count, bits) <= -(-count * bits // 8) + 1
    np.testing.assert_array_equal(unpack(packed, count, bits), codes)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_unpack_takes_any_bytes(bits: int) -> None:
    codes = unpack(np.full(5, 0xFF, np.uint8), 40 // bits - 1, bits)

    assert (codes == (1 << bits) - 1).all()
