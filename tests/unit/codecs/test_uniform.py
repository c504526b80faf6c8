from __future__ import annotations

import numpy as np
import pytest
from codec_vectors import vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs.encoded import square_norm
from fedfleet.codecs.uniform import GROUP, Uniform
from fedfleet.codecs.values import decode_dense
from fedfleet.types import FloatVector


def decoded(codec: Uniform, values: FloatVector, seed: int = 0) -> FloatVector:
    return decode_dense(codec, memoryview(codec.encode(values, seed)), values.size)


@given(vectors, st.sampled_from([2, 4, 8]), st.booleans(), st.integers(0, 2**32))
@settings(deadline=None)
def test_uniform_error_of_each_element_is_below_one_step(
    values: FloatVector, bits: int, nearest: bool, seed: int
) -> None:
    codec = Uniform(bits, nearest=nearest)
    error = np.abs(decoded(codec, values, seed).astype(np.float64) - values)

    for start in range(0, values.size, GROUP):
        group = slice(start, start + GROUP)
        largest = float(np.abs(values[group]).max())
        step = max(largest / codec.levels, 2.0**-126) * (1 + 2.0**-19)
        assert error[group].max() <= (step / 2 if nearest else step) + 2.0**-21 * largest


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_keeps_zeros_and_the_ends(bits: int) -> None:
    values = np.zeros(300, np.float32)
    values[10], values[20] = -3.0, 3.0

    for seed in range(20):
        got = decoded(Uniform(bits), values, seed)
        np.testing.assert_allclose(got, values, rtol=2.0**-20)
        assert not got[256:].any()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_rounding_is_unbiased_to_a_hundredth_of_a_step(bits: int) -> None:
    codec = Uniform(bits)
    values = np.linspace(-1, 1, GROUP, dtype=np.float32)

    mean = sum(decoded(codec, values, seed).astype(np.float64) for seed in range(4000)) / 4000

    assert abs((mean - values).mean()) <= 0.01 / codec.levels
    assert np.abs(mean - values).max() <= 5 * 0.5 / np.sqrt(4000) / codec.levels


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_error_is_within_the_bound_of_qsgd(bits: int) -> None:
    codec = Uniform(bits)
    values = np.random.default_rng(0).normal(size=1024).astype(np.float32)
    errors = [square_norm(decoded(codec, values, s) - values) for s in range(200)]

    bound = sum(
        min(GROUP / codec.levels**2, np.sqrt(GROUP) / codec.levels) * square_norm(group)
        for group in values.reshape(-1, GROUP)
    )
    assert np.mean(errors) <= bound


@pytest.mark.parametrize(("bits", "want"), [(8, 257), (4, 129), (2, 65)])
def test_uniform_costs_its_bits_and_a_scale_per_group(bits: int, want: int) -> None:
    assert Uniform(bits).size(257) == want + 8
    assert Uniform(bits).size(0) == 0


def test_uniform_draws_differ_between_seeds() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)

    assert bytes(Uniform(8).encode(values, 1)) != bytes(Uniform(8).encode(values, 2))
