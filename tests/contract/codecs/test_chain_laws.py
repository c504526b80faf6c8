"""What holds for every chain: size, bound, determinism, block by block, sparse, residual."""

from __future__ import annotations

import numpy as np
import pytest
from codec_vectors import CHAINS, KINDS, cases, seeds, sparing, vector
from hypothesis import given, settings

from fedfleet.aggregation.exact_sum import ExactSum, SumBounds
from fedfleet.codecs.chain import CODECS, Chain, parse_chain
from fedfleet.codecs.encoded import BLOCK, MAX_ABS, square_norm
from fedfleet.codecs.sparse import kept
from fedfleet.errors import FedFleetError, UpdateNotFinite, UpdateOutOfRange
from fedfleet.types import FloatVector


def squared_error(decoded: FloatVector, values: FloatVector) -> float:
    return square_norm(decoded.astype(np.float64) - values)


def test_the_laws_are_held_against_every_codec() -> None:
    named = {step.partition(":")[0] for text in CHAINS for step in text.split("|")}

    assert named == set(CODECS)


@given(cases(), seeds)
@settings(max_examples=400, deadline=None)
def test_chain_keeps_to_its_worst_bound_for_every_seed(
    case: tuple[Chain, FloatVector], seed: int
) -> None:
    chain, values = case
    before = values.copy()

    encoded = chain.encode(values, seed)
    decoded = chain.decode(encoded)

    assert decoded.dtype == np.float32
    assert decoded.shape == values.shape
    assert np.isfinite(decoded).all()
    assert len(encoded.data) <= chain.max_bytes(values.size)
    assert len(encoded.data) == chain.max_bytes(values.size) or not chain.has_exact_size
    assert encoded.steps == chain.steps
    np.testing.assert_array_equal(values, before)
    # 2^-140: half of the smallest float32 per element, whatever the codec.
    slack = values.size * 2.0**-280
    assert squared_error(decoded, values) <= chain.error_bound(values).worst * (1 + 1e-6) + slack


@given(cases(), seeds)
@settings(deadline=None)
def test_chain_gives_the_same_bytes_for_the_same_seed(
    case: tuple[Chain, FloatVector], seed: int
) -> None:
    chain, values = case
    first, second = chain.encode(values, seed), chain.encode(values.copy(), seed)

    assert bytes(first.data) == bytes(second.data)
    assert chain.decode(first).tobytes() == chain.decode(second).tobytes()


@given(cases(), seeds)
@settings(deadline=None)
def test_residual_is_what_the_receiver_does_not_get(
    case: tuple[Chain, FloatVector], seed: int
) -> None:
    chain, values = case
    pending = values.copy()

    encoded, sent = chain.encode_residual(pending, seed)

    assert bytes(encoded.data) == bytes(chain.encode(values, seed).data)
    np.testing.assert_array_equal(pending, values - chain.decode(encoded))
    assert (sent is None) == (not chain.is_sparse)


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 300])
@pytest.mark.parametrize("spared", [False, True])
def test_parts_add_up_to_the_whole_vector(text: str, size: int, spared: bool) -> None:
    chain = sparing(parse_chain(text), size, 8) if spared else parse_chain(text)
    values = vector("layers", size, 1.0, 5)
    encoded = chain.encode(values, 3)

    whole = ExactSum(size, SumBounds(total_weight=1e4, max_abs=1024.0))
    whole.add(chain.decode(encoded), 7.0)
    parts = ExactSum(size, SumBounds(total_weight=1e4, max_abs=1024.0))
    if chain.is_sparse:
        positions, kept_values = chain.decode_sparse(encoded)
        assert (np.diff(positions) > 0).all()
        parts.add_sparse(positions, kept_values, 7.0)
    else:
        parts.add_blocks(lambda: chain.decode_blocks(encoded), 7.0)

    assert parts.mean().tobytes() == whole.mean().tobytes()


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("kind", KINDS)
def test_mean_squared_error_is_within_the_expected_bound(text: str, kind: str) -> None:
    chain = parse_chain(text)
    values = vector(kind, 1500, 1.0, 11)
    errors = [squared_error(chain.decode(chain.encode(values, s)), values) for s in range(60)]

    # Five standard errors; the bound itself is of the mean.
    slack = 5 * np.std(errors) / np.sqrt(len(errors)) + 1e-9
    assert np.mean(errors) <= chain.error_bound(values).expected * (1 + 1e-6) + slack


@pytest.mark.parametrize("text", [t for t in CHAINS if parse_chain(t).is_unbiased])
@pytest.mark.parametrize("kind", KINDS)
def test_unbiased_chain_comes_to_the_vector_in_the_mean(text: str, kind: str) -> None:
    chain = parse_chain(text)
    values = vector(kind, 1024, 1.0, 13)
    draws = 600
    mean = np.zeros(values.size)
    for seed in range(draws):
        mean += chain.decode(chain.encode(values, seed))

    squares = square_norm(mean / draws - values)

    # Independent errors: the mean's squared error is a draw's divided by their number.
    assert squares <= 1.5 * chain.error_bound(values).expected / draws + 1e-9 * square_norm(values)


@pytest.mark.parametrize("text", [t for t in CHAINS if not parse_chain(t).is_unbiased])
def test_biased_chain_says_so_rightly(text: str) -> None:
    chain = parse_chain(text)
    values = vector("heavy", 1024, 1.0, 17)
    mean = sum(chain.decode(chain.encode(values, s)).astype(np.float64) for s in range(200)) / 200

    error = square_norm(mean - values)

    if "topk:1" not in text:
        assert error > 1e-9 * square_norm(values)


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 4999])
def test_sparse_chain_keeps_exactly_the_share_that_it_names(text: str, size: int) -> None:
    chain = parse_chain(text)
    if chain.sparse is None:
        return
    positions, _ = chain.decode_sparse(chain.encode(vector("normal", size, 1.0, 1), 0))

    assert positions.size == kept(chain.sparse.ratio, size)


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (np.nan, UpdateNotFinite),
        (np.inf, UpdateNotFinite),
        (-np.inf, UpdateNotFinite),
        (2 * MAX_ABS, UpdateOutOfRange),
        (-3e38, UpdateOutOfRange),
    ],
)
@pytest.mark.parametrize("place", [0, 299])
def test_encoder_refuses_what_it_cannot_hold(
    text: str, bad: float, error: type[FedFleetError], place: int
) -> None:
    values = vector("normal", 300, 1.0, 1)
    values[place] = bad
    if text.startswith("identity"):
        assert parse_chain(text).decode(parse_chain(text).encode(values, 0)).tobytes() == (
            values.tobytes()
        )
        return

    with pytest.raises(error) as caught:
        parse_chain(text).encode(values, 0)
    assert caught.value.code == error.code


@given(cases(tuple(t for t in CHAINS if parse_chain(t).is_sparse)), seeds)
@settings(max_examples=300, deadline=None)
def test_sparse_chain_sends_the_spared_places_and_the_largest_others(
    case: tuple[Chain, FloatVector], seed: int
) -> None:
    chain, values = case
    assert chain.sparse is not None
    spared = np.zeros(values.size, bool)
    for span in chain.sparse.spared.spared if chain.sparse.spared else ():
        spared[span] = True

    positions, _ = chain.decode_sparse(chain.encode(values, seed))

    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()
    sent = np.zeros(values.size, bool)
    sent[positions] = True
    assert sent[spared].all()
    others = np.abs(values[~spared])
    assert np.count_nonzero(sent & ~spared) == kept(chain.sparse.ratio, others.size)
    chosen = sent[~spared]
    if chosen.any() and not chosen.all():
        assert others[chosen].min() >= others[~chosen].max()


@given(cases(), seeds)
@settings(deadline=None)
def test_deflate_changes_no_value(case: tuple[Chain, FloatVector], seed: int) -> None:
    chain, values = case
    if "|deflate" not in str(chain):
        return
    plain = parse_chain(str(chain).removesuffix("|deflate"))

    decoded = chain.decode(chain.encode(values, seed))

    assert decoded.tobytes() == plain.decode(plain.encode(values, seed)).tobytes()


def test_float16_says_where_it_ends() -> None:
    with pytest.raises(UpdateOutOfRange, match="bfloat16"):
        parse_chain("float16").encode(np.array([65505.0], np.float32), 0)
