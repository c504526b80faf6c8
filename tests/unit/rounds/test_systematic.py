from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.algorithms.fedavg import MAX_CORRECTION
from fedfleet.rounds.systematic import TICKS, comb, corrections, inclusion, systematic

weight = st.floats(0, 1e6) | st.just(0.0)
weights = st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), weight, min_size=1)
seeds = st.integers(0, 2**63 - 1)


@st.composite
def draws(draw: st.DrawFn) -> tuple[dict[str, float], int]:
    found = draw(weights)
    return found, draw(st.integers(1, len(found)))


@given(draws(), seeds)
def test_as_many_different_ones_as_asked_for_are_drawn(
    case: tuple[dict[str, float], int], seed: int
) -> None:
    found, size = case

    ticks = inclusion(found, size)
    drawn = systematic(ticks, seed)

    assert sum(ticks.values()) == size * TICKS
    assert all(1 <= one <= TICKS for one in ticks.values())
    assert list(drawn) == sorted(set(drawn))
    assert len(drawn) == size
    assert set(drawn) <= set(found)
    assert {name for name, one in ticks.items() if one == TICKS} <= set(drawn)


@given(draws())
def test_chances_are_in_proportion_to_the_weights_where_they_are_below_one(
    case: tuple[dict[str, float], int],
) -> None:
    found, size = case
    floor = 1e-3 * sum(found.values()) / len(found)

    ticks = inclusion(found, size)

    below = [name for name in found if ticks[name] < TICKS and found[name] > floor]
    for one in below:
        for two in below:
            left = Fraction(ticks[one]) * Fraction(found[two])
            right = Fraction(ticks[two]) * Fraction(found[one])
            assert abs(left - right) <= max(left, right) * Fraction(1, 10**9)
    # A heavier one is never drawn more rarely, but for a tick of what rounding left out.
    ranked = [ticks[name] for name in sorted(found, key=found.__getitem__)]
    assert all(one <= two + 1 for one, two in pairwise(ranked))


@given(draws())
def test_no_correction_passes_what_the_sum_is_made_for(
    case: tuple[dict[str, float], int],
) -> None:
    found, size = case

    factors = corrections(inclusion(found, size), sorted(found)[:size])

    assert all(size / len(found) * (1 - 1e-12) <= one for one in factors.values())
    assert all(one <= MAX_CORRECTION for one in factors.values())


def test_chances_above_one_are_cut_and_shared_among_the_others() -> None:
    # 3 * 10 / 14 is above 1; then 2 * 2 / 4 is 1; the last two share what is left.
    ticks = inclusion({"a": 10.0, "b": 2.0, "c": 1.0, "d": 1.0}, 3)

    chances = [ticks[name] / TICKS for name in "abcd"]
    assert chances == pytest.approx([1, 1, 0.5, 0.5], abs=1e-14)


def test_candidates_of_no_weight_at_all_are_drawn_alike() -> None:
    assert len(set(inclusion(dict.fromkeys("abcd", 0.0), 3).values())) == 1


def starts(ticks: dict[str, int], order: tuple[str, ...]) -> list[tuple[int, int]]:
    """Every stretch of starts that draws the same: where it begins, how long it is."""
    ends, total = [0], 0
    for name in order:
        total += ticks[name]
        ends.append(total % TICKS)
    edges = [*sorted({*ends, 0}), TICKS]
    return [(start, stop - start) for start, stop in pairwise(edges)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_corrected_mean_is_unbiased_over_every_draw_there_is(size: int) -> None:
    """Horvitz and Thompson's estimate, summed exactly over all orders and all starts."""
    found = {"a": 8.0, "b": 3.0, "c": 1.0, "d": 0.5, "e": 0.0}
    values = {"a": 7, "b": -3, "c": 11, "d": 2, "e": 100}
    ticks = inclusion(found, size)

    chances = dict.fromkeys(found, Fraction(0))
    expected, biased = Fraction(0), Fraction(0)
    orders = list(permutations(found))
    for order in orders:
        for start, length in starts(ticks, order):
            share = Fraction(length, TICKS * len(orders))
            drawn = comb(ticks, order, start)
            assert drawn == comb(ticks, order, start + length - 1)
            for name in drawn:
                chances[name] += share
            biased += share * Fraction(sum(values[name] for name in drawn), size)
            # m / (N pi) in exact arithmetic; ``corrections`` rounds it to a float.
            for name in drawn:
                correction = Fraction(size * TICKS, len(found) * ticks[name])
                assert float(correction) == pytest.approx(
                    corrections(ticks, drawn)[name], rel=1e-15
                )
                expected += share * correction * values[name] / size

    mean = Fraction(sum(values.values()), len(values))
    assert chances == {name: Fraction(one, TICKS) for name, one in ticks.items()}
    assert expected == mean
    assert abs(biased - mean) > 1


def test_neighbours_by_name_are_drawn_together_as_well() -> None:
    ticks = inclusion(dict.fromkeys("abcdef", 1.0), 2)

    pairs = {systematic(ticks, seed) for seed in range(600)}

    assert len(pairs) == 15
