from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.aggregation import exact_sum
from fedfleet.aggregation.exact_sum import BLOCK, MAX_TERMS, ExactSum, SumBounds, check_values
from fedfleet.errors import FedFleetError, UpdateInvalid, UpdateNotFinite, UpdateOutOfRange
from fedfleet.types import Array

MAX_ABS = 1024.0
values = st.floats(-MAX_ABS, MAX_ABS, width=32)
vectors = st.lists(values, min_size=3, max_size=3).map(lambda v: np.array(v, np.float32))
weights = st.one_of(st.integers(1, 1 << 20).map(float), st.floats(1e-6, 1e6))
terms = st.lists(st.tuples(vectors, weights), min_size=1, max_size=8)
fineness = st.booleans()


def new_sum(elements: int = 3, *, fine: bool = False, total_weight: float = 2.0**24) -> ExactSum:
    return ExactSum(elements, SumBounds(total_weight=total_weight, max_abs=MAX_ABS, fine=fine))


def mean_of(pairs: list[tuple[Array, float]], *, fine: bool) -> Array:
    total = new_sum(len(pairs[0][0]), fine=fine)
    for vector, weight in pairs:
        total.add(vector, weight)
    return total.mean()


@given(terms, fineness, st.randoms(use_true_random=False))
def test_exact_sum_is_bit_identical_in_every_order(
    pairs: list[tuple[Array, float]], fine: bool, random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis's Random

    assert mean_of(shuffled, fine=fine).tobytes() == mean_of(pairs, fine=fine).tobytes()


@pytest.mark.parametrize("fine", [False, True])
def test_exact_sum_does_not_depend_on_the_block_that_an_element_lies_in(fine: bool) -> None:
    random = np.random.default_rng(0)
    pairs = [(random.normal(size=2 * BLOCK + 5).astype(np.float32), w) for w in (3.0, 7.0, 0.25)]

    whole = mean_of(pairs, fine=fine)

    cuts = (slice(0, 7), slice(7, BLOCK + 1), slice(BLOCK + 1, None))
    parts = [mean_of([(vector[cut], w) for vector, w in pairs], fine=fine) for cut in cuts]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("fine", [False, True])
def test_exact_sum_cannot_overflow_at_the_edge_of_its_bounds(fine: bool) -> None:
    total = ExactSum(2, SumBounds(total_weight=64.0, max_abs=MAX_ABS, fine=fine))
    extreme = np.array([MAX_ABS, -MAX_ABS], np.float32)

    for _ in range(64):
        total.add(extreme, 1.0)

    np.testing.assert_array_equal(total.mean(), [MAX_ABS, -MAX_ABS])


@given(st.floats(2.0**-10, 2.0**40), st.floats(2.0**-20, 2.0**60), st.integers(1, 40), fineness)
def test_exact_sum_of_extremes_keeps_its_sign_for_any_bounds(
    total_weight: float, max_abs: float, count: int, fine: bool
) -> None:
    total = ExactSum(2, SumBounds(total_weight=total_weight, max_abs=max_abs, fine=fine))
    weight = total_weight / (count + 1)

    try:
        for _ in range(count):
            total.add(np.array([max_abs, -max_abs]), weight)
    except UpdateInvalid:  # a weight below the step was rounded up to it
        assert weight < 1.0

    if total.terms:
        np.testing.assert_allclose(total.mean(), [max_abs, -max_abs], rtol=2.0**-50)


def test_exact_sum_adds_small_remainders_that_a_float_sum_would_lose() -> None:
    total = ExactSum(1, SumBounds(total_weight=2.0**20, max_abs=2.0**40, fine=True))

    total.add(np.array([2.0**40]), 1.0)
    for _ in range(1000):
        total.add(np.array([2.0**-15]), 1.0)
    total.add(np.array([-(2.0**40)]), 1.0)

    assert total.mean() * total.total_weight == pytest.approx(1000 * 2.0**-15, rel=1e-9)


@given(terms, fineness)
def test_exact_sum_leaves_its_argument_alone_and_does_not_keep_it(
    pairs: list[tuple[Array, float]], fine: bool
) -> None:
    total = new_sum(fine=fine)
    for vector, weight in pairs:
        before = vector.copy()
        total.add(vector, weight)
        np.testing.assert_array_equal(vector, before)

    mean = total.mean()
    pairs[0][0][:] = 0
    np.testing.assert_array_equal(total.mean(), mean)


BAD_TERMS = [
    (np.array([1, np.nan, 0], np.float32), 1.0, UpdateNotFinite),
    (np.array([1, np.inf, 0], np.float32), 1.0, UpdateNotFinite),
    (np.array([-np.inf, 1, 0], np.float32), 1.0, UpdateNotFinite),
    (np.array([np.inf, -np.inf, np.nan], np.float32), 1.0, UpdateNotFinite),
    (np.array([0, 0, 1024.25], np.float32), 1.0, UpdateOutOfRange),
    (np.array([0, 0, -1e30], np.float32), 1.0, UpdateOutOfRange),
    (np.zeros(4, np.float32), 1.0, UpdateInvalid),
    (np.zeros((1, 3), np.float32), 1.0, UpdateInvalid),
    (np.zeros(3, np.float32), 0.0, UpdateInvalid),
    (np.zeros(3, np.float32), -1.0, UpdateInvalid),
    (np.zeros(3, np.float32), math.nan, UpdateInvalid),
    (np.zeros(3, np.float32), math.inf, UpdateInvalid),
    (np.zeros(3, np.float32), 2.0**24, UpdateInvalid),  # 5 of 2^24 is there already
]


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize(("vector", "weight", "error"), BAD_TERMS)
def test_exact_sum_takes_all_of_a_term_or_nothing(
    vector: Array, weight: float, error: type[FedFleetError], fine: bool
) -> None:
    total = new_sum(fine=fine)
    total.add(np.array([1.5, -2, 3], np.float32), 5.0)
    before = (total.mean().tobytes(), total.terms, total.total_weight)

    with pytest.raises(error) as caught:
        total.add(vector, weight)

    assert caught.value.code == error.code
    assert (total.mean().tobytes(), total.terms, total.total_weight) == before


def test_exact_sum_refuses_a_fault_in_the_last_block_before_it_adds_the_first() -> None:
    vector = np.ones(BLOCK + 1, np.float32)
    total = new_sum(vector.size)
    total.add(vector, 1.0)
    vector[-1] = np.nan

    with pytest.raises(UpdateNotFinite):
        total.add(vector, 1.0)

    assert total.mean()[0] == 1.0
    assert total.terms == 1


def test_exact_sum_names_the_recipe_field_when_weights_pass_the_bound() -> None:
    with pytest.raises(UpdateInvalid, match=r"rounds\.max_weight"):
        new_sum(total_weight=10.0).add(np.zeros(3), 11.0)


def test_exact_sum_takes_no_more_terms_than_its_fine_part_can_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MAX_TERMS == 1 << 20
    monkeypatch.setattr(exact_sum, "MAX_TERMS", 2)
    total = new_sum()
    total.add(np.zeros(3), 1.0)
    total.add(np.zeros(3), 1.0)

    with pytest.raises(UpdateInvalid, match="smaller cohort"):
        total.add(np.zeros(3), 1.0)


def test_exact_sum_of_nothing_has_no_mean() -> None:
    with pytest.raises(UpdateInvalid) as caught:
        new_sum().mean()
    assert caught.value.code == "UPDATE_INVALID"


def test_exact_sum_of_an_empty_vector_counts_its_weight() -> None:
    total = new_sum(0, fine=True)
    total.add(np.zeros(0, np.float32), 4.0)

    assert total.mean().shape == (0,)
    assert total.total_weight == 4.0


def test_exact_sum_rounds_weights_to_a_step_and_never_to_nothing() -> None:
    total = new_sum(1)
    total.add(np.array([3.0]), 1e-12)

    assert total.total_weight == exact_sum.WEIGHT_STEP
    assert total.mean()[0] == 3.0


def test_check_values_takes_the_bound_itself() -> None:
    check_values(np.array([-2.0, 2.0]), 2.0)
    check_values(np.zeros(0), 2.0)
    with pytest.raises(UpdateOutOfRange, match=r"2\.5"):
        check_values(np.array([-2.5, 2.0]), 2.0)


def pieces(vector: Array, size: int) -> list[tuple[int, Array]]:
    return [(start, vector[start : start + size]) for start in range(0, vector.size, size)]


@given(terms, fineness, st.integers(1, 4))
def test_exact_sum_of_blocks_is_that_of_the_vector(
    pairs: list[tuple[Array, float]], fine: bool, size: int
) -> None:
    total = new_sum(fine=fine)
    for vector, weight in pairs:
        total.add_blocks(lambda vector=vector: iter(pieces(vector, size)), weight)

    assert total.mean().tobytes() == mean_of(pairs, fine=fine).tobytes()
    assert total.terms == len(pairs)


@given(terms, fineness)
def test_exact_sum_of_sparse_vectors_is_that_of_dense_ones(
    pairs: list[tuple[Array, float]], fine: bool
) -> None:
    total = new_sum(fine=fine)
    for vector, weight in pairs:
        positions = np.flatnonzero(vector)
        total.add_sparse(positions, vector[positions], weight)

    assert total.mean().tobytes() == mean_of(pairs, fine=fine).tobytes()


@pytest.mark.parametrize("fine", [False, True])
def test_exact_sum_of_a_long_sparse_vector_is_that_of_the_dense_one(fine: bool) -> None:
    random = np.random.default_rng(0)
    vector = np.where(random.random(3 * BLOCK) < 0.6, random.normal(size=3 * BLOCK), 0)
    positions = np.flatnonzero(vector)
    total = new_sum(vector.size, fine=fine)
    total.add_sparse(positions, vector[positions], 3.0)

    assert total.mean().tobytes() == mean_of([(vector, 3.0)], fine=fine).tobytes()


@pytest.mark.parametrize("exponent", range(-60, 11, 5))
@pytest.mark.parametrize("total_weight", [1.0, 2.0**24, 2.0**40])
def test_exact_sum_rounds_small_and_large_terms_alike(exponent: int, total_weight: float) -> None:
    random = np.random.default_rng(exponent + 60)
    vector = np.round(random.uniform(-1, 1, 2000) * 2.0**20) / 2 * 2.0 ** (exponent - 20)
    bounds = SumBounds(total_weight=total_weight, max_abs=MAX_ABS)
    total = ExactSum(vector.size, bounds)
    total.add(vector, 1.0)

    bits = 62 - math.ceil(math.log2(total_weight * MAX_ABS))
    want = np.rint(vector * 2.0**bits).astype(np.int64) * 2.0**-bits
    np.testing.assert_array_equal(total.mean(), want)


BAD_BLOCKS = [
    ([np.ones(BLOCK), np.full(2, np.nan)], UpdateNotFinite),
    ([np.ones(BLOCK), np.full(2, 2 * MAX_ABS)], UpdateOutOfRange),
    ([np.ones(BLOCK)], UpdateInvalid),
    ([np.ones(BLOCK), np.ones(2), np.ones(1)], UpdateInvalid),
    ([np.ones(BLOCK + 3)], UpdateInvalid),
    ([], UpdateInvalid),
]


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize(("blocks", "error"), BAD_BLOCKS)
def test_exact_sum_takes_out_the_blocks_that_came_before_a_fault(
    blocks: list[Array], error: type[FedFleetError], fine: bool
) -> None:
    total = new_sum(BLOCK + 2, fine=fine)
    total.add(np.random.default_rng(0).normal(size=BLOCK + 2), 5.0)
    before = (total.mean().tobytes(), total.terms, total.total_weight)
    starts = np.cumsum([0, *(block.size for block in blocks)])

    with pytest.raises(error):
        total.add_blocks(lambda: iter(list(zip(starts.tolist(), blocks, strict=False))), 2.0)

    assert (total.mean().tobytes(), total.terms, total.total_weight) == before


def test_exact_sum_takes_out_the_blocks_of_a_decoder_that_fails_late() -> None:
    total = new_sum(4)
    total.add(np.ones(4), 1.0)

    def failing() -> object:
        yield 0, np.full(3, 0.1)
        raise UpdateInvalid("a scale is NaN")

    with pytest.raises(UpdateInvalid, match="scale"):
        total.add_blocks(failing, 1.0)  # type: ignore[arg-type]

    np.testing.assert_array_equal(total.mean(), np.ones(4))
    assert total.terms == 1


@pytest.mark.parametrize("starts", [(0, 1), (1, 2), (0, 3), (2, 0), (-1, 1)])
def test_exact_sum_refuses_blocks_with_gaps_or_overlaps(starts: tuple[int, int]) -> None:
    total = new_sum(4)

    with pytest.raises(UpdateInvalid, match=r"a block at|values, expected"):
        total.add_blocks(lambda: iter([(start, np.ones(2)) for start in starts]), 1.0)

    assert total.terms == 0


@pytest.mark.parametrize(
    ("positions", "numbers", "error"),
    [
        ([0, 3], [1, 1], UpdateInvalid),
        ([-1, 2], [1, 1], UpdateInvalid),
        ([1, 1], [1, 1], UpdateInvalid),
        ([2, 1], [1, 1], UpdateInvalid),
        ([0, 1], [1], UpdateInvalid),
        ([0, 1], [1, math.nan], UpdateNotFinite),
        ([0, 1], [1, 2 * MAX_ABS], UpdateOutOfRange),
    ],
)
def test_exact_sum_takes_all_of_a_sparse_term_or_nothing(
    positions: list[int], numbers: list[float], error: type[FedFleetError]
) -> None:
    total = new_sum()
    total.add(np.ones(3), 1.0)

    with pytest.raises(error):
        total.add_sparse(np.array(positions), np.array(numbers), 1.0)

    np.testing.assert_array_equal(total.mean(), np.ones(3))
    assert total.terms == 1
