"""Which tensors are spared: the small ones, found the same way at both ends."""

from __future__ import annotations

import numpy as np
import pytest

from fedfleet.codecs.chain import parse_chain
from fedfleet.types import Kind, ParamSpec, Schema
from fedfleet.wire.spare import SMALL_TENSOR, spare_small


def schema(*tensors: tuple[int, Kind]) -> Schema:
    return Schema(tuple(ParamSpec(f"p{i}", (n,), kind) for i, (n, kind) in enumerate(tensors)))


T, S, N = Kind.TRAINABLE, Kind.STATISTIC, Kind.COUNTER
MIXED = schema(
    (SMALL_TENSOR, T), (SMALL_TENSOR + 1, T), (10, T), (7, S), (20, T), (1, N), (0, T), (5000, T)
)


@pytest.mark.parametrize(
    ("model", "spared"),
    [
        (MIXED, [(0, 1024), (2049, 2079)]),
        (schema((5000, T), (100, S)), []),
        (schema((100, T), (9, S), (1024, T)), [(0, 1124)]),
        (schema((5000, T), (1, T)), [(5000, 5001)]),
    ],
)
def test_small_trainable_tensors_are_spared_and_neighbours_joined(
    model: Schema, spared: list[tuple[int, int]]
) -> None:
    chain = spare_small(parse_chain("topk:0.01"), model)

    assert chain.sparse is not None
    spans = chain.sparse.spared.spared if chain.sparse.spared else ()
    assert [(span.start, span.stop) for span in spans] == spared


@pytest.mark.parametrize("text", ["identity", "int8", "sign", "int4|deflate"])
def test_dense_chain_stays_as_it_is(text: str) -> None:
    chain = parse_chain(text)

    assert spare_small(chain, MIXED) is chain


@pytest.mark.parametrize("text", ["topk:0.01|int8", "topk:0.5", "stc:0.01"])
def test_chain_keeps_its_name_and_its_steps(text: str) -> None:
    chain = spare_small(parse_chain(text), MIXED)

    assert str(chain) == text
    assert chain.steps == parse_chain(text).steps
    assert not chain.has_exact_size
    assert chain == spare_small(parse_chain(text), Schema.from_json(MIXED.to_json()))


@pytest.mark.parametrize(
    ("text", "dense"),
    [("topk:0.01|int8", "int8"), ("topk:0.01", "identity"), ("stc:0.1", "float16")],
)
def test_model_of_small_tensors_is_sent_densely_as_a_whole(text: str, dense: str) -> None:
    model = schema((640, T), (10, T), (3, S))
    chain = spare_small(parse_chain(text), model)
    values = np.random.default_rng(0).normal(size=650).astype(np.float32)

    positions, decoded = chain.decode_sparse(chain.encode(values, 0))

    np.testing.assert_array_equal(positions, np.arange(650))
    error = np.square(decoded - values).sum()
    assert error <= parse_chain(dense).error_bound(values).worst
    assert chain.max_bytes(650) <= parse_chain(dense).max_bytes(650) + 30
