from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs import rice
from fedfleet.errors import UpdateInvalid
from fedfleet.types import Array


def mask(ratio: float, elements: int, seed: int = 0) -> Array:
    return np.flatnonzero(np.random.default_rng(seed).random(elements) < ratio)


def entropy_bytes(count: int, elements: int) -> float:
    p = count / elements
    return elements * -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8


@given(
    st.integers(0, 3000).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, 2**32 - 1))
    )
)
@settings(deadline=None)
def test_rice_gives_positions_back(drawn: tuple[int, int, int]) -> None:
    elements, count, seed = drawn
    positions = np.sort(np.random.default_rng(seed).choice(elements, count, replace=False))

    data = rice.encode(positions.astype(np.int64), elements)

    assert len(data) <= rice.max_bytes(count, elements)
    np.testing.assert_array_equal(rice.decode(memoryview(data), count, elements), positions)


@pytest.mark.parametrize("first", [0, 2**31 - 1])
def test_rice_holds_the_ends_of_the_longest_vector(first: int) -> None:
    positions = np.array([first], np.int64)
    data = rice.encode(positions, 2**31)

    assert len(data) <= rice.max_bytes(1, 2**31)
    np.testing.assert_array_equal(rice.decode(memoryview(data), 1, 2**31), positions)


@pytest.mark.parametrize(
    "ratio",
    [0.0005, 0.001, 0.0025, 0.01, 0.04, 0.1, 0.2, 0.3, 0.36, 0.38, 0.4, 0.5, 0.7, 0.9, 0.99],
)
def test_positions_cost_within_five_percent_of_the_entropy_of_the_mask(ratio: float) -> None:
    elements = 2_000_000
    positions = mask(ratio, elements)

    data = rice.encode(positions, elements)

    assert len(data) <= 1.05 * entropy_bytes(positions.size, elements)
    np.testing.assert_array_equal(
        rice.decode(memoryview(data), positions.size, elements), positions
    )


def test_positions_of_a_mask_that_is_denser_in_places_cost_less() -> None:
    dense, thin = mask(0.1, 100_000), mask(0.001, 900_000) + 100_000
    positions = np.concatenate([dense, thin])

    data = rice.encode(positions, 1_000_000)

    parts = entropy_bytes(dense.size, 100_000) + entropy_bytes(thin.size, 900_000)
    assert len(data) <= 1.05 * parts
    assert len(data) < 0.8 * entropy_bytes(positions.size, 1_000_000)
    np.testing.assert_array_equal(
        rice.decode(memoryview(data), positions.size, 1_000_000), positions
    )


@pytest.mark.parametrize(("ratio", "bits"), [(0.01, 8.108), (0.0025, 10.114), (0.04, 6.085)])
def test_positions_cost_what_golomb_codes_cost_in_the_paper(ratio: float, bits: float) -> None:
    positions = mask(ratio, 4_000_000)

    measured = 8 * len(rice.encode(positions, 4_000_000)) / positions.size

    assert measured == pytest.approx(bits, rel=0.01)


@given(st.binary(max_size=200), st.integers(0, 60), st.integers(0, 2000))
@settings(max_examples=500, deadline=None)
def test_rice_refuses_or_gives_valid_positions_for_any_bytes(
    data: bytes, count: int, elements: int
) -> None:
    count = min(count, elements)
    try:
        positions = rice.decode(memoryview(data), count, elements)
    except UpdateInvalid:
        return

    assert positions.shape == (count,)
    assert (np.diff(positions) > 0).all()
    assert not count or (positions[0] >= 0 and positions[-1] < elements)


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_rice_refuses_or_gives_valid_positions_for_changed_bytes(data: st.DataObject) -> None:
    positions = np.concatenate([mask(0.3, 2000), mask(0.01, 100_000) + 2000])
    elements = 102_000
    changed = bytearray(rice.encode(positions, elements))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed))) if data.draw(st.booleans()) else None

    try:
        found = rice.decode(memoryview(changed)[:end], positions.size, elements)
    except UpdateInvalid:
        return
    assert found.shape == positions.shape
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0
    assert found[-1] < elements


@pytest.mark.parametrize(
    ("data", "count", "elements"),
    [
        (b"", 3, 100),  # nothing where positions are needed
        (b"\x00", 0, 100),  # something where none are
        (b"\x20\xff", 1, 100),  # a parameter past the largest
        (b"\xff\x01", 1, 100),  # by group, and then no remainder
        (b"\x03\x00", 1, 100),  # a remainder missing
        (b"\x00\xe0", 4, 100),  # three ends for four positions
        (b"\x00\x80\x00", 1, 100),  # bytes after the last
        (b"\x00\x01", 1, 3),  # position 7 of 3
        (b"\x1f" + b"\xff" * 31 + b"\x01", 1, 2**30),  # position near 2^34
        (bytes(1000), 1, 100),  # more than any encoder writes
    ],
)
def test_rice_names_what_is_wrong(data: bytes, count: int, elements: int) -> None:
    with pytest.raises(UpdateInvalid, match="position"):
        rice.decode(memoryview(data), count, elements)


@pytest.mark.parametrize("count", [2**20, 2**30 + 5, 2**31 - 2**20])
def test_rice_allocates_nothing_for_positions_that_are_not_there(count: int) -> None:
    tracemalloc.start()
    with pytest.raises(UpdateInvalid):
        rice.decode(memoryview(b"\x00" * 1000), count, 2**31)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100_000
