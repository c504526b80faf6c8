from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.errors import FedFleetError, SchemaMismatch, UpdateInvalid
from fedfleet.types import Kind, ModelState, ParamSpec, Schema
from fedfleet.wire.deltas import apply_delta, encode_delta

SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (40, 50), Kind.TRAINABLE),
        ParamSpec("norm.running_mean", (50,), Kind.STATISTIC),
        ParamSpec("norm.batches", (), Kind.COUNTER),
    )
)
CHAINS = (
    "identity",
    "int8",
    "int4:nearest",
    "float16",
    "eden:2",
    "sign",
    "topk:0.1|int8",
    "stc:0.2",
)


def state(seed: int, schema: Schema = SCHEMA) -> ModelState:
    random = np.random.default_rng(seed)
    return ModelState(
        schema,
        random.standard_normal(schema.elements(Kind.TRAINABLE)).astype(np.float32),
        random.standard_normal(schema.elements(Kind.STATISTIC)).astype(np.float32),
        random.integers(0, 1000, schema.elements(Kind.COUNTER)),
    )


@pytest.mark.parametrize("text", CHAINS)
def test_delta_leads_to_the_chains_picture_of_the_difference(text: str) -> None:
    chain = parse_chain(text)
    start, end = state(1), state(2)

    reached = apply_delta(start, encode_delta(start, end, chain, 7), chain)

    difference = end.trainable - start.trainable
    np.testing.assert_array_equal(
        reached.trainable, start.trainable + chain.decode(chain.encode(difference, 7))
    )
    bound = chain.error_bound(difference)
    error = float(np.square(reached.trainable - end.trainable, dtype=np.float64).sum())
    assert error <= bound.worst * 1.01 + 1e-6
    np.testing.assert_array_equal(reached.statistics, end.statistics)
    np.testing.assert_array_equal(reached.counters, end.counters)


def test_delta_of_another_model_is_refused() -> None:
    chain = parse_chain("int8")
    other = Schema((ParamSpec("dense.weight", (2000,), Kind.TRAINABLE), *SCHEMA.params[1:]))
    data = encode_delta(state(1, other), state(2, other), chain, 0)

    with pytest.raises(SchemaMismatch):
        apply_delta(state(1), data, chain)


def test_delta_of_another_chain_is_refused() -> None:
    data = encode_delta(state(1), state(2), parse_chain("int8"), 0)

    with pytest.raises(UpdateInvalid, match="asks for the codec int4"):
        apply_delta(state(1), data, parse_chain("int4"))


@pytest.mark.parametrize("cut", [0, 3, 4, 20, -1])
def test_delta_that_is_cut_is_refused(cut: int) -> None:
    data = encode_delta(state(1), state(2), parse_chain("int8"), 0)

    with pytest.raises(FedFleetError):
        apply_delta(state(1), data[:cut], parse_chain("int8"))


@given(
    text=st.sampled_from(CHAINS),
    at=st.integers(0, 400),
    junk=st.binary(min_size=1, max_size=8),
)
@example(text="int8", at=0, junk=b"\xff\xff\xff\xff")
def test_damaged_delta_is_refused_or_gives_finite_parameters(
    text: str, at: int, junk: bytes
) -> None:
    chain = parse_chain(text)
    data = bytearray(encode_delta(state(1), state(2), chain, 3))
    data[at : at + len(junk)] = junk

    try:
        reached = apply_delta(state(1), bytes(data), chain)
    except FedFleetError:
        return
    assert text in ("identity", "float16") or np.isfinite(reached.trainable).all()
