from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_in_torch
from samples import SCHEMA, state

from fedfleet.errors import FedFleetError, SchemaMismatch
from fedfleet.types import Kind, ModelState, ParamSpec, Schema
from fedfleet.wire.weights import decode_arrays, decode_state, encode_arrays, encode_state


@st.composite
def states(draw: st.DrawFn) -> ModelState:
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    names = draw(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=5))
    schema = Schema(
        tuple(ParamSpec(n, draw(shapes), draw(st.sampled_from(list(Kind)))) for n in names)
    )
    return state(schema, seed=draw(st.integers(0, 100)))


@given(states())
def test_state_comes_back_bit_for_bit(given_state: ModelState) -> None:
    again = decode_state(given_state.schema, encode_state(given_state))

    for kind in Kind:
        assert again.vector(kind).tobytes() == given_state.vector(kind).tobytes()


def test_bytes_are_a_function_of_the_state_alone() -> None:
    one, other = state(seed=5), state(seed=5)
    shuffled = ModelState.from_tensors(SCHEMA, dict(reversed(one.tensors().items())))

    assert encode_state(one) == encode_state(other) == encode_state(shuffled)
    assert encode_state(one) != encode_state(state(seed=6))


def test_file_is_read_by_plain_pytorch_by_name_and_shape() -> None:
    tensors = load_in_torch(encode_state(state(seed=5)))

    assert tensors["norm.num_batches_tracked"].shape == ()
    assert tensors["norm.num_batches_tracked"].dtype == torch.int64
    assert tensors["dense.weight"].shape == (3, 2)
    np.testing.assert_array_equal(
        tensors["dense.weight"].numpy(), state(seed=5).tensors()["dense.weight"]
    )


def test_arrays_of_any_layout_come_back() -> None:
    arrays = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::2],
        "scalar": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }

    again = decode_arrays(encode_arrays(arrays))

    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype
    assert decode_arrays(encode_arrays({})) == {}


def refused(data: bytes) -> FedFleetError:
    with pytest.raises(SchemaMismatch) as caught:
        decode_state(SCHEMA, data)
    assert caught.value.code == "SCHEMA_MISMATCH"
    return caught.value


def test_file_of_another_model_is_refused_by_name() -> None:
    tensors = dict(state().tensors())
    bias = tensors.pop("dense.bias")

    assert "dense.bias" in refused(encode_arrays(tensors)).message
    assert "extra" in refused(encode_arrays({**state().tensors(), "extra": bias})).message
    for wrong in (bias[:2], bias.reshape(1, 3), bias.astype(np.float64), bias.astype(np.int32)):
        error = refused(encode_arrays({**state().tensors(), "dense.bias": wrong}))
        assert error.message.startswith("dense.bias ")


def header(**tensor: object) -> bytes:
    text = json.dumps({"x": tensor}).encode()
    return len(text).to_bytes(8, "little") + text


GOOD = encode_state(state())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not a safetensors file",
        (2**63).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        GOOD[:-1],
        GOOD + b"x",
        header(dtype="F32", shape=[2**62, 4], data_offsets=[0, 4]) + bytes(4),
        header(dtype="F32", shape=[-1], data_offsets=[0, 4]) + bytes(4),
        header(dtype="F32", shape=[1], data_offsets=[4, 0]) + bytes(4),
        header(dtype="BF16", shape=[2], data_offsets=[0, 4]) + bytes(4),
        header(dtype="F8_E4M3", shape=[4], data_offsets=[0, 4]) + bytes(4),
        header(dtype="C64", shape=[1], data_offsets=[0, 8]) + bytes(8),
        header(dtype="F4", shape=[8], data_offsets=[0, 4]) + bytes(4),
        header(dtype="NONSENSE", shape=[1], data_offsets=[0, 4]) + bytes(4),
    ],
)
def test_junk_is_refused(data: bytes) -> None:
    refused(data)


@settings(max_examples=200)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
def test_damage_is_refused_or_gives_a_state_of_the_schema(place: int, patch: bytes) -> None:
    damaged = GOOD[:place] + patch + GOOD[place + len(patch) :]
    try:
        decoded = decode_state(SCHEMA, damaged)
    except SchemaMismatch:
        return
    assert decoded.schema is SCHEMA


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_with_our_error(data: bytes) -> None:
    refused(data)


def test_refused_file_does_not_tell_of_its_inside_in_public() -> None:
    error = refused(b"not a safetensors file")

    assert error.message == "the file is not a readable safetensors file; download it again"
    assert error.detail


def test_state_of_another_dtype_is_refused_even_if_it_could_be_cast() -> None:
    wide = Schema(tuple(replace(p) for p in SCHEMA.params))
    tensors = {n: t.astype(np.float64) for n, t in state().tensors().items()}

    with pytest.raises(SchemaMismatch, match="float64, expected"):
        decode_state(wide, encode_arrays(tensors))
