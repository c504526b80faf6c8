from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.codecs import identity
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Kind

floats = st.lists(st.floats(width=32, allow_nan=True)).map(lambda v: np.array(v, np.float32))
integers = st.lists(st.integers(-(2**63), 2**63 - 1)).map(lambda v: np.array(v, np.int64))


@given(floats)
def test_identity_gives_floats_back_bit_for_bit(values: np.ndarray) -> None:
    again = identity.decode(bytes(identity.encode(values)), Kind.TRAINABLE, values.size)

    assert again.tobytes() == values.tobytes()
    assert again.dtype == np.float32


@given(integers)
def test_identity_gives_counters_back(values: np.ndarray) -> None:
    again = identity.decode(bytes(identity.encode(values)), Kind.COUNTER, values.size)

    np.testing.assert_array_equal(again, values)
    assert again.dtype == np.int64


def test_identity_is_little_endian_whatever_the_array_is() -> None:
    values = np.array([1.0, -2.5], ">f4")

    assert bytes(identity.encode(values)) == values.astype("<f4").tobytes()


def test_identity_does_not_copy() -> None:
    values = np.arange(4, dtype=np.float32)

    assert np.shares_memory(np.asarray(identity.encode(values)), values)
    assert not identity.decode(bytes(16), Kind.STATISTIC, 4).flags.writeable


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_identity_refuses_another_number_of_bytes(size: int) -> None:
    with pytest.raises(UpdateInvalid, match="expected 8") as caught:
        identity.decode(bytes(size), Kind.TRAINABLE, 2)
    assert caught.value.code == "UPDATE_INVALID"
