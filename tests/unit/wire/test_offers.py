from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fedfleet.errors import ChecksumMismatch, InvalidInput, SchemaMismatch
from fedfleet.types import Kind, ModelState, ParamSpec, Schema
from fedfleet.wire.offers import check_model, check_size, check_weights, check_whole
from fedfleet.wire.weights import encode_state

SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (3, 4), Kind.TRAINABLE),
        ParamSpec("norm.mean", (3,), Kind.STATISTIC),
        ParamSpec("norm.batches", (), Kind.COUNTER),
    )
)


def a_state(schema: Schema = SCHEMA) -> ModelState:
    vectors = (np.ones(schema.elements(kind), kind.dtype) for kind in Kind)
    return ModelState(schema, *vectors)


@given(
    st.lists(
        st.tuples(st.text(min_size=1, max_size=512), st.lists(st.integers(0, 5), max_size=16)),
        max_size=20,
        unique_by=lambda one: one[0],
    )
)
def test_every_file_of_a_schema_has_a_size_that_is_taken(tensors) -> None:
    rows = [(name.encode("utf-8", "replace").decode(), shape) for name, shape in tensors]
    params = tuple(
        ParamSpec(name, tuple(n % 3 for n in shape), Kind.TRAINABLE)
        for name, shape in dict(rows).items()
    )
    schema = Schema(params)

    check_size(schema, len(encode_state(a_state(schema))))


@pytest.mark.parametrize("size_bytes", [0, 60, 68, 1 << 20])
def test_another_size_is_refused(size_bytes: int) -> None:
    with pytest.raises(InvalidInput, match="68 and some for names"):
        check_size(SCHEMA, size_bytes)


def test_weights_are_those_of_the_schema() -> None:
    state = a_state()

    assert check_weights(SCHEMA, encode_state(state)).trainable.tolist() == [1.0] * 12


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["trainable", "statistics"])
def test_weights_that_are_not_finite_are_refused(which: str, value: float) -> None:
    state = a_state()
    vector = getattr(state, which).copy()
    vector[1] = value

    with pytest.raises(InvalidInput, match="not finite"):
        check_weights(SCHEMA, encode_state(replace(state, **{which: vector})))


def test_tensors_of_another_type_are_refused() -> None:
    tensors = a_state().tensors()

    for name, dtype in (("dense.weight", np.float64), ("norm.batches", np.int32)):
        data = save({**tensors, name: tensors[name].astype(dtype)})
        with pytest.raises(SchemaMismatch, match=name):
            check_weights(SCHEMA, data)


def test_bytes_are_those_of_the_digest() -> None:
    check_whole("ab" * 32, "ab" * 32)

    with pytest.raises(ChecksumMismatch, match="abab"):
        check_whole("ab" * 32, "cd" * 32)


def test_model_of_the_card_is_the_one_that_the_weights_are_of() -> None:
    first, *others = SCHEMA.params
    check_model(SCHEMA, Schema(SCHEMA.params))

    for params, named in (
        ((replace(first, shape=(4, 3)), *others), "dense.weight"),
        ((replace(first, kind=Kind.STATISTIC), *others), "dense.weight"),
        (tuple(others), "dense.weight"),
        ((*SCHEMA.params, replace(first, name="more")), "more"),
        ((*others, first), "their order"),
    ):
        with pytest.raises(SchemaMismatch, match=named):
            check_model(SCHEMA, Schema(params))
