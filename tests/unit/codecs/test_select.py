from __future__ import annotations

import numpy as np
import pytest
from codec_vectors import vector, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs.select import largest
from fedfleet.errors import UpdateNotFinite
from fedfleet.types import Array, FloatVector

LONG = 300_000


def by_sorting(values: FloatVector, count: int) -> Array:
    """The definition: by magnitude, of equal ones the lowest position."""
    return np.sort(np.argsort(-np.abs(values), kind="stable")[:count])


@given(vectors, st.floats(0, 1))
@settings(deadline=None)
def test_largest_is_what_a_stable_sort_would_choose(values: FloatVector, share: float) -> None:
    count = round(share * values.size)

    np.testing.assert_array_equal(largest([values], count), by_sorting(values, count))


@pytest.mark.parametrize("kind", ["normal", "heavy", "constant", "sparse", "two values", "layers"])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.02, 0.3, 0.9])
def test_largest_of_a_long_vector_is_what_a_stable_sort_would_choose(
    kind: str, share: float
) -> None:
    values = vector(kind, LONG, 1.0, 3)
    count = round(share * LONG)

    np.testing.assert_array_equal(largest([values], count), by_sorting(values, count))


def test_largest_of_a_vector_that_misleads_the_sample_is_exact() -> None:
    values = np.zeros(LONG, np.float32)
    stride = LONG // (1 << 15) | 1
    values[::stride] = np.random.default_rng(0).normal(size=values[::stride].size)

    np.testing.assert_array_equal(largest([values], 3000), by_sorting(values, 3000))
    np.testing.assert_array_equal(largest([1 - values], 3000), by_sorting(1 - values, 3000))


def test_largest_of_rounded_values_trims_the_ties() -> None:
    values = np.round(np.random.default_rng(0).normal(size=LONG), 1).astype(np.float32)

    np.testing.assert_array_equal(largest([values], 2000), by_sorting(values, 2000))


@pytest.mark.parametrize("size", [10, LONG])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_largest_refuses_what_cannot_be_compared(size: int, bad: float) -> None:
    values = np.ones(size, np.float32)
    values[-1] = bad

    with pytest.raises(UpdateNotFinite):
        largest([values], size // 10)
