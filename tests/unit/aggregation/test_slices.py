from __future__ import annotations

import numpy as np
import pytest

from fedfleet.aggregation.slices import Slice
from fedfleet.errors import SchemaMismatch
from fedfleet.types import Kind, ModelState, ParamSpec, Schema


def schema(rows: int, columns: int, means: int) -> Schema:
    return Schema(
        (
            ParamSpec("weight", (rows, columns), Kind.TRAINABLE),
            ParamSpec("mean", (means,), Kind.STATISTIC),
            ParamSpec("batches", (), Kind.COUNTER),
        )
    )


FULL, PART = schema(3, 4, 3), schema(2, 2, 1)
PLACES = {
    Kind.TRAINABLE: np.array([0, 1, 4, 5]),
    Kind.STATISTIC: np.array([2]),
    Kind.COUNTER: np.array([0]),
}
STATE = ModelState(
    FULL, np.arange(12, dtype=np.float32), np.arange(3, dtype=np.float32), np.array([7])
)


def test_cut_gathers_every_kind_at_its_places():
    cut = Slice(FULL, PART, PLACES).cut(STATE)

    assert cut.schema == PART
    assert cut.trainable.tolist() == [0.0, 1.0, 4.0, 5.0]
    assert cut.statistics.tolist() == [2.0]
    assert cut.counters.tolist() == [7]


def test_cut_shares_no_memory_with_the_full_state():
    cut = Slice(FULL, PART, PLACES).cut(STATE)

    cut.trainable[:] = -1.0

    assert STATE.trainable.tolist() == list(range(12))


def test_cut_refuses_a_state_of_another_model():
    with pytest.raises(SchemaMismatch, match="the slice is of"):
        Slice(FULL, PART, PLACES).cut(Slice(FULL, PART, PLACES).cut(STATE))


@pytest.mark.parametrize(
    "places",
    [
        np.array([0, 1, 4]),
        np.array([0, 1, 5, 4]),
        np.array([0, 1, 1, 5]),
        np.array([-1, 1, 4, 5]),
        np.array([0, 1, 4, 12]),
        np.array([0, 1, 4, 5], np.int32),
        np.array([[0, 1, 4, 5]]),
    ],
)
def test_slice_of_places_that_are_none_is_refused(places):
    with pytest.raises(SchemaMismatch, match="4 increasing positions below 12"):
        Slice(FULL, PART, PLACES | {Kind.TRAINABLE: places})
