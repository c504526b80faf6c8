"""Which architecture a run trains, with its options; torch-free, so that recipes parse fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class CnnOptions:
    """Options of ``cnn``.

    Args:
        hidden: units of the first dense layer.
    """

    hidden: int = 512

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden = {self.hidden}: must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpOptions:
    """Options of ``mlp``.

    Args:
        hidden: units of each hidden layer; an empty list is softmax regression.
    """

    hidden: tuple[int, ...] = (200, 200)

    def __post_init__(self) -> None:
        if any(units < 1 for units in self.hidden):
            raise ValueError(f"hidden = {list(self.hidden)}: every layer needs 1 unit or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class MobileNetOptions:
    """Options of ``mobilenet_v3_small``.

    Args:
        stem: ``cifar`` keeps the resolution of small images (first convolution with stride 1,
            fewer strides after it); ``imagenet`` is torchvision's own network, stride 32.
        pretrained: start from torchvision's ImageNet weights (needs a network on first use).
    """

    stem: Literal["cifar", "imagenet"] = "cifar"
    pretrained: bool = False

    def __post_init__(self) -> None:
        if self.pretrained and self.stem != "imagenet":
            raise ValueError('pretrained = true: the weights are for stem = "imagenet"')


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetOptions:
    """Options of ``resnet18``.

    Args:
        norm: batch normalisation, or group normalisation, which has no running statistics.
    """

    norm: Literal["batch", "group"] = "batch"


BUILT_IN: Mapping[str, type] = {
    "cnn": CnnOptions,
    "mlp": MlpOptions,
    "mobilenet_v3_small": MobileNetOptions,
    "resnet18": ResNetOptions,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """An architecture and its options.

    Args:
        architecture: a built-in one, or an entry point in the group ``fedfleet.models``.
        options: an instance of the architecture's options class; for a plug-in the remaining keys
            of the recipe's table, as a mapping. Any, because a plug-in chooses its own types.
    """

    architecture: str
    options: Any
