"""ResNet-18 (He et al. 2016, arXiv:1512.03385) with the 3x3 stem that small images need.

Differs from the paper's ImageNet network as its CIFAR networks do: the stem is a 3x3 convolution
with stride 1 and there is no max-pool, so a 32x32 image still has a 4x4 map at the end. With
group normalisation (Wu and He 2018, arXiv:1803.08494) the model has no running statistics, which
is what federated training with few or skewed examples per worker wants (Hsieh et al. 2020,
arXiv:1910.00189, section 5).

Legend: B = batch, C = input channels, H, W = input size, K = classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from fedfleet.models.config import ResNetOptions
from fedfleet.models.layers import MakeNorm, make_norm, scaled
from fedfleet.types import InputSpec

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of each pair of blocks


def _conv3x3(channels_in: int, channels_out: int, stride: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)


@dataclass(frozen=True)
class _BlockPlan:
    """What a block maps to what; ``nominal`` is at width 1."""

    nominal_in: int
    nominal_out: int
    channels_in: int
    channels_out: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the input is of another shape; asked of no width, so that all widths agree."""
        return self.stride != 1 or self.nominal_in != self.nominal_out


def _plans(options: ResNetOptions) -> list[_BlockPlan]:
    plans: list[_BlockPlan] = []
    before = _STAGES[0][0]
    for (channels, stride), count in zip(_STAGES, options.blocks, strict=True):
        for place in range(count):
            here, there = (scaled(c, options.width) for c in (before, channels))
            plans.append(_BlockPlan(before, channels, here, there, stride if place == 0 else 1))
            before = channels
    return plans


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added (figure 2 of the paper).

    Args:
        norm: made for this block's channels at width 1.
    """

    def __init__(self, plan: _BlockPlan, norm: MakeNorm, *, bias: bool) -> None:
        super().__init__()
        channels_in, channels_out, stride = plan.channels_in, plan.channels_out, plan.stride
        self.conv1 = _conv3x3(channels_in, channels_out, stride, bias=bias)
        self.norm1 = norm(plan.nominal_out)
        self.conv2 = _conv3x3(channels_out, channels_out, 1, bias=bias)
        self.norm2 = norm(plan.nominal_out)
        self.shortcut: nn.Module = nn.Identity()
        if plan.projects:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=bias)
            self.shortcut = nn.Sequential(projection, norm(plan.nominal_out))

    def forward(self, maps: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(maps)))
        inner = self.norm2(self.conv2(inner))
        return functional.relu(inner + self.shortcut(maps))


class PreactivationBlock(nn.Module):
    """The same two, each after its normalisation and ReLU (He et al. 2016, arXiv:1603.05027).

    A projection takes the activated maps and has no normalisation of its own, as in HeteroFL's
    network.
    """

    def __init__(self, plan: _BlockPlan, norm: MakeNorm, *, bias: bool) -> None:
        super().__init__()
        channels_in, channels_out, stride = plan.channels_in, plan.channels_out, plan.stride
        self.norm1 = norm(plan.nominal_in)
        self.conv1 = _conv3x3(channels_in, channels_out, stride, bias=bias)
        self.norm2 = norm(plan.nominal_out)
        self.conv2 = _conv3x3(channels_out, channels_out, 1, bias=bias)
        self.shortcut: nn.Module | None = None
        if plan.projects:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        active = functional.relu(self.norm1(maps))
        around: Tensor = maps if self.shortcut is None else self.shortcut(active)
        inner = functional.relu(self.norm2(self.conv1(active)))
        summed: Tensor = self.conv2(inner) + around
        return summed


class ResNet18(nn.Module):
    """A 3x3 stem, four stages of blocks, the mean over the map, one dense layer."""

    def __init__(self, inputs: InputSpec, num_classes: int, options: ResNetOptions) -> None:
        super().__init__()
        norm = make_norm(options.norm, options.groups, options.width)
        is_bare = options.norm == "none"
        plans = _plans(options)
        first, last = plans[0], plans[-1]
        stem = _conv3x3(inputs.channels, first.channels_in, 1, bias=is_bare)
        make = PreactivationBlock if options.preactivation else BasicBlock
        if options.preactivation:
            self.stem = nn.Sequential(stem)
        else:
            self.stem = nn.Sequential(stem, norm(first.nominal_in), nn.ReLU())
        self.blocks = nn.Sequential(*(make(plan, norm, bias=is_bare) for plan in plans))
        self.end: nn.Module = nn.Identity()
        if options.preactivation:
            self.end = nn.Sequential(norm(last.nominal_out), nn.ReLU())
        self.output = nn.Linear(last.channels_out, num_classes)
        self._start(is_bare=is_bare)

    def _start(self, *, is_bare: bool) -> None:
        """Draw the first weights.

        Without normalisation each block starts as its shortcut, or the sums of eight blocks grow
        out of range (Zhang et al. 2019, arXiv:1901.09321, section 3).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            if is_bare and isinstance(block, (BasicBlock, PreactivationBlock)):
                nn.init.zeros_(block.conv2.weight)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the logits, shape (B, K)."""
        maps: Tensor = self.end(self.blocks(self.stem(images_BCHW)))
        logits_BK: Tensor = self.output(maps.mean(dim=(2, 3)))
        return logits_BK


def build(inputs: InputSpec, num_classes: int, options: ResNetOptions) -> nn.Module:
    """Build ``resnet18``; takes inputs of any size.

    Raises:
        RecipeInvalid: the groups do not divide a layer's channels.
    """
    return ResNet18(inputs, num_classes, options)
