from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.places import Places
from fedfleet.errors import UpdateInvalid


@st.composite
def places(draw: st.DrawFn) -> Places:
    elements = draw(st.integers(0, 60))
    ends = draw(st.lists(st.integers(0, elements), max_size=10).map(sorted))
    pairs = zip(ends[::2], ends[1::2], strict=False)
    return Places(tuple(slice(a, b) for a, b in pairs), elements)


@given(places(), st.data())
def test_places_part_a_vector_and_join_it_again(given_places: Places, data: st.DataObject) -> None:
    values = np.arange(given_places.elements, dtype=np.float32) + 0.5
    spared = given_places.take_spared(values)
    rest = np.concatenate(given_places.rest_of(values))
    count = data.draw(st.integers(0, rest.size))
    chosen = np.sort(data.draw(st.permutations(range(rest.size)))[:count]).astype(np.int64)

    in_whole = given_places.in_whole(chosen)
    positions, joined = given_places.join(in_whole, rest[chosen], spared)

    assert (spared.size, rest.size) == (given_places.spared_count, given_places.rest_count)
    np.testing.assert_array_equal(values[in_whole], rest[chosen])
    assert positions.size == spared.size + count
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(values[positions], joined)
    assert set(spared) <= set(joined)


@pytest.mark.parametrize(
    "spans",
    [
        (slice(3, 2),),
        (slice(-1, 2),),
        (slice(0, 11),),
        (slice(4, 6), slice(5, 7)),
        (slice(4, 6), slice(0, 2)),
    ],
)
def test_places_must_be_in_order_apart_and_inside(spans: tuple[slice, ...]) -> None:
    with pytest.raises(ValueError, match="in order, apart, and within 10 elements"):
        parse_chain("topk:0.1").sparing(spans, 10)


def test_chain_that_spares_is_for_one_length_only() -> None:
    chain = parse_chain("topk:0.1").sparing((slice(0, 2),), 10)

    with pytest.raises(UpdateInvalid, match="9 elements, the model has 10"):
        chain.max_bytes(9)
    with pytest.raises(UpdateInvalid, match="11 elements"):
        chain.encode(np.zeros(11, np.float32), 0)
