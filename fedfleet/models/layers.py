"""What architectures have in common: their normalisation by name, and channels at any width.

Group, layer and no normalisation hold parameters only, so federated averaging has nothing else to
average (Hsieh et al. 2020, arXiv:1910.00189, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from fedfleet.errors import RecipeInvalid
from fedfleet.models.config import Norm

# Makes the normalisation of maps that have so many channels at width 1.
MakeNorm = Callable[[int], nn.Module]

_MAX_GROUPS = 32


def make_norm(norm: Norm, groups: int | None = None, width: float = 1.0) -> MakeNorm:
    """The recipe's normalisation of maps (B, C, H, W).

    Layer normalisation is over channels and places together, which is group normalisation with
    one group (Wu and He 2018, arXiv:1803.08494, section 3.1).

    Args:
        groups: of group normalisation at width 1.
    """
    if norm == "batch":
        return lambda channels: nn.BatchNorm2d(scaled(channels, width))
    if norm == "none":
        return lambda channels: nn.Identity()
    if norm == "layer":
        return lambda channels: nn.GroupNorm(1, scaled(channels, width))
    return lambda channels: group_norm(channels, groups, width)


def group_norm(channels: int, groups: int | None = None, width: float = 1.0) -> nn.Module:
    """Group normalisation, by default with the most groups, up to 32, that divide the channels.

    A model of another width has groups of as many channels, so that the first channels of a wide
    model are normalised as they are in a narrow one. Where that does not divide its channels, they
    are the largest that divide them and are no larger.

    Args:
        channels, groups: at width 1.

    Raises:
        RecipeInvalid: that many groups do not divide the channels.
    """
    if groups is None:
        groups = max(g for g in range(1, _MAX_GROUPS + 1) if channels % g == 0)
    if channels % groups:
        raise RecipeInvalid(
            f"model.groups = {groups}: does not divide the {channels} channels of a layer"
        )
    here = scaled(channels, width)
    per_group = max(size for size in range(1, channels // groups + 1) if here % size == 0)
    return nn.GroupNorm(here // per_group, here)


def scaled(channels: int, width: float) -> int:
    """A layer's channels in a model of this width: rounded up, so that there is always one.

    As the levels of HeteroFL (Diao et al. 2021, arXiv:2010.01264, section 3): a narrower model is
    a prefix of a wider one in every layer.
    """
    # What 0.1 * 30 = 3.0000000000000004 would be rounded up to is one too many.
    return max(1, math.ceil(channels * width - 1e-9))
