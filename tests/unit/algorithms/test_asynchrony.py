from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import header

from fedfleet.algorithms.asynchrony import AsynchronousOptions, hinge, polynomial
from fedfleet.algorithms.base import Asynchrony
from fedfleet.algorithms.fedbuff import FedBuff, FedBuffOptions


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"staleness": "constant"}, [1, 1, 1, 1, 1, 1]),
        ({}, [1, 2**-0.5, 3**-0.5, 1 / 2, 5**-0.5, 6**-0.5]),
        ({"staleness_exponent": 2.0}, [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25, 1 / 36]),
        ({"staleness": "hinge"}, [1, 1, 1, 1, 1, 1 / 11]),
        ({"staleness": "hinge", "hinge_after": 1, "hinge_slope": 2.0}, [1, 1, 1 / 3, 1 / 5]),
    ],
)
def test_freshness_has_the_values_of_the_papers(
    options: dict[str, Any], expected: list[float]
) -> None:
    chosen = AsynchronousOptions(**options)

    found = [chosen.freshness(staleness) for staleness in range(len(expected))]

    assert found == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    "options", [{"staleness_exponent": 1000.0}, {"staleness": "hinge", "hinge_slope": 1000.0}]
)
def test_freshness_is_never_too_small_to_count(options: dict[str, Any]) -> None:
    chosen = AsynchronousOptions(**options)

    assert [chosen.freshness(staleness) for staleness in (2, 10**6)][1] == 2.0**-20
    assert chosen.freshness(2) >= 2.0**-20


@given(
    st.integers(0, 10**6),
    st.floats(1e-3, 1000),
    st.integers(0, 100),
    st.floats(1e-3, 1000),
)
def test_freshness_never_rises_with_staleness(
    staleness: int, exponent: float, after: int, slope: float
) -> None:
    assert polynomial(0, exponent) == hinge(0, after, slope) == 1.0
    assert 0 <= polynomial(staleness + 1, exponent) <= polynomial(staleness, exponent)
    assert 0 < hinge(staleness + 1, after, slope) <= hinge(staleness, after, slope)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"concurrency": 0}, "concurrency = 0"),
        ({"max_staleness": -1}, "max_staleness = -1"),
        ({"staleness_exponent": 0.0}, "staleness_exponent = 0.0"),
        ({"staleness": "hinge", "hinge_slope": -1.0}, "hinge_slope = -1.0"),
        ({"staleness": "hinge", "hinge_after": -1}, "hinge_after = -1"),
        ({"hinge_after": 3}, "hinge_after: has no meaning"),
        ({"staleness": "constant", "staleness_exponent": 1.0}, "staleness_exponent: has no mean"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AsynchronousOptions(**options)


def test_asynchronous_algorithm_counts_every_fresh_update_alike() -> None:
    algorithm = FedBuff(FedBuffOptions(concurrency=5, max_staleness=2))

    assert algorithm.weight(header(weight=700.0)) == algorithm.largest_weight == 1.0
    assert algorithm.asynchrony == Asynchrony(5, 2)
