from __future__ import annotations

import math

import pytest

from fedfleet.rounds.propensity import SkewedOptions, propensity


@pytest.mark.parametrize("skew", [0.3, 1.0, 4.0])
def test_propensities_have_the_mean_and_variance_of_a_gamma_variate(skew: float) -> None:
    drawn = [propensity(f"w{i}", skew, 5) for i in range(4000)]

    mean = sum(drawn) / len(drawn)
    variance = sum((one - mean) ** 2 for one in drawn) / len(drawn)
    # Both are skew; the variance's own spread is that of a heavy tail.
    assert abs(mean - skew) < 5 * math.sqrt(skew / len(drawn))
    assert abs(variance - skew) < 0.25 * skew


@pytest.mark.parametrize("skew", [0.0, -1.0, float("nan"), float("inf")])
def test_options_refuse_a_skew_that_is_no_parameter(skew: float) -> None:
    with pytest.raises(ValueError, match=r"skew = .*: must be from 0.001 to 1e6"):
        SkewedOptions(skew=skew)
