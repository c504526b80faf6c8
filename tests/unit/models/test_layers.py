from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedfleet.errors import RecipeInvalid
from fedfleet.models.config import MAX_WIDTH, MIN_WIDTH, CnnOptions, ResNetOptions
from fedfleet.models.layers import group_norm, make_norm, scaled


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (512, 32), (48, 24), (20, 20), (7, 7)])
def test_group_norm_has_the_most_groups_that_divide(channels, groups):
    assert group_norm(channels).num_groups == groups


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(RecipeInvalid, match=r"model.groups = 4: does not divide the 6 channels"):
        group_norm(6, 4)


@pytest.mark.parametrize(
    ("channels", "groups", "width", "here", "per_group"),
    [
        (64, None, 0.5, 32, 2),  # 64 channels are 32 groups of 2
        (512, None, 0.0625, 32, 16),
        (512, None, 0.01, 6, 6),  # fewer than a group
        (64, 16, 0.1, 7, 1),  # 4 do not divide 7
        (64, 2, 0.125, 8, 8),
        (64, None, 2.0, 128, 2),
    ],
)
def test_group_norm_of_another_width_has_groups_of_as_many_channels(
    channels, groups, width, here, per_group
):
    layer = group_norm(channels, groups, width)

    assert layer.num_channels == here
    assert here // layer.num_groups == per_group


def test_narrow_group_norm_normalises_as_the_wide_one():
    maps = torch.randn(3, 64, 4, 4)

    wide, narrow = group_norm(64), group_norm(64, width=0.25)

    torch.testing.assert_close(narrow(maps[:, :16]), wide(maps)[:, :16])


def test_layer_norm_is_over_channels_and_places():
    maps = torch.randn(3, 6, 4, 5) * 7 + 2

    normed = make_norm("layer")(6)(maps)

    want = nn.functional.layer_norm(maps, (6, 4, 5))
    torch.testing.assert_close(normed, want)


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
def test_norms_but_batch_keep_parameters_only(norm):
    layer = make_norm(norm)(8)

    assert len(layer.state_dict()) == len(list(layer.named_parameters()))
    assert list(layer.buffers()) == []


def test_batch_norm_keeps_statistics():
    assert len(list(make_norm("batch")(8).buffers())) == 3


@given(st.integers(1, 1024), st.floats(MIN_WIDTH, MAX_WIDTH))
def test_scaled_rounds_up_and_never_to_nothing(channels, width):
    assert scaled(channels, width) >= 1
    assert channels * width - 1e-6 <= scaled(channels, width) < channels * width + 1


@given(st.integers(1, 1024), st.floats(MIN_WIDTH, MAX_WIDTH), st.floats(MIN_WIDTH, MAX_WIDTH))
def test_scaled_is_larger_where_the_width_is(channels, one, other):
    narrow, wide = sorted((one, other))

    assert scaled(channels, narrow) <= scaled(channels, wide)


def test_scaled_takes_no_rounding_error_for_a_channel():
    assert scaled(30, 0.1) == 3
    assert [scaled(64, 2.0**-level) for level in range(5)] == [64, 32, 16, 8, 4]
    assert scaled(7, 0.5) == math.ceil(3.5)


@pytest.mark.parametrize("options", [CnnOptions, ResNetOptions])
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"norm": "batch", "groups": 2}, 'groups = 2: has no meaning with norm = "batch"'),
        ({"norm": "group", "groups": 0}, "groups = 0: must be 1 or more"),
        ({"width": 0.0}, "width = 0.0: must be from"),
        ({"width": float("nan")}, "width = nan"),
        ({"width": 9.0}, "width = 9.0"),
    ],
)
def test_options_of_norm_and_width_out_of_range_are_refused(options, values, text):
    with pytest.raises(ValueError, match=text):
        options(**values)
