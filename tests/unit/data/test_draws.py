from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.draws import Draws

SEEDS = st.integers(0, 2**63 - 1)
GOLDEN_PERMUTATION = [0, 4, 5, 6, 3, 2, 1, 7]
GOLDEN_UNIFORM = 0.7139801947483275
GOLDEN_DIRICHLET = [0.1717344124525715, 0.6670333709027205, 0.16123221664470794]


@given(SEEDS, st.integers(0, 300))
def test_permutation_holds_every_number_once(seed, count):
    assert sorted(Draws(seed, "test").permutation(count)) == list(range(count))


@given(SEEDS, st.floats(0.001, 1e6), st.integers(1, 30))
def test_dirichlet_shares_are_none_below_zero_and_add_up(seed, alpha, count):
    shares = Draws(seed, "test").dirichlet(alpha, count)

    assert shares.min() >= 0
    assert abs(shares.sum() - 1) < 1e-9


def test_draws_are_the_same_on_every_machine():
    """Fixed values: a change here gives running fleets overlapping shards."""
    draws = Draws(7, "partition", "iid")

    assert draws.permutation(8).tolist() == GOLDEN_PERMUTATION
    assert draws.uniform() == GOLDEN_UNIFORM
    np.testing.assert_allclose(draws.dirichlet(0.5, 3), GOLDEN_DIRICHLET, rtol=1e-12)


def test_draws_differ_by_seed_and_by_label():
    streams = [Draws(1, "a"), Draws(2, "a"), Draws(1, "b"), Draws(1, "a", "b")]

    assert len({stream.uniform() for stream in streams}) == 4


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 3.0])
def test_dirichlet_has_the_mean_and_variance_of_its_law(alpha):
    draws, classes = Draws(0, "law"), 4

    shares = np.stack([draws.dirichlet(alpha, classes) for _ in range(4000)])

    mean = 1 / classes
    variance = mean * (1 - mean) / (classes * alpha + 1)
    np.testing.assert_allclose(shares.mean(axis=0), mean, atol=5 * (variance / 4000) ** 0.5)
    np.testing.assert_allclose(shares.var(axis=0), variance, rtol=0.1)


def test_normals_have_mean_zero_and_variance_one():
    normals = Draws(0, "law").normals(20000)

    assert abs(normals.mean()) < 5 / 20000**0.5
    assert abs(normals.var() - 1) < 0.05


def test_uniforms_stay_off_zero_and_one():
    uniforms = Draws(0, "law").uniforms(10000)

    assert 0 < uniforms.min() < uniforms.max() < 1
    assert abs(uniforms.mean() - 0.5) < 5 * (1 / 12 / 10000) ** 0.5
