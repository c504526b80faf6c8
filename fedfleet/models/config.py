"""Which architecture a run trains, with its options; torch-free, so that recipes parse fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Norm = Literal["batch", "group", "layer", "none"]

# The narrowest level of HeteroFL is a sixteenth; the widest keeps a recipe from filling a memory.
MIN_WIDTH = 0.01
MAX_WIDTH = 8.0
# Of a stack of layers, and of the numbers in one: far more than devices train, and few enough that
# a card from outside takes no core for long, and no product of two is out of range.
MAX_LAYERS = 256
MAX_UNITS = 1 << 20


def _check_norm(norm: Norm, groups: int | None) -> None:
    if groups is not None and norm != "group":
        raise ValueError(f'groups = {groups}: has no meaning with norm = "{norm}"')
    if groups is not None and groups < 1:
        raise ValueError(f"groups = {groups}: must be 1 or more")


def _check_width(width: float) -> None:
    if not MIN_WIDTH <= width <= MAX_WIDTH:
        raise ValueError(f"width = {width}: must be from {MIN_WIDTH} to {MAX_WIDTH}")


def _check_from_one(options: Any, most: int, *names: str) -> None:
    for name in names:
        if not 1 <= getattr(options, name) <= most:
            raise ValueError(f"{name} = {getattr(options, name)}: must be from 1 to {most}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CharLstmOptions:
    """Options of ``char_lstm``, which reads text.

    Args:
        embedding: numbers per character.
        hidden: units of each layer.
        layers: LSTM layers, one above the other.
        width: multiplies ``embedding`` and ``hidden``; rounded up.
    """

    embedding: int = 8
    hidden: int = 256
    layers: int = 2
    width: float = 1.0

    def __post_init__(self) -> None:
        _check_from_one(self, MAX_UNITS, "embedding", "hidden")
        _check_from_one(self, MAX_LAYERS, "layers")
        _check_width(self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class CnnOptions:
    """Options of ``cnn``.

    Args:
        hidden: units of the first dense layer.
        width: multiplies the channels of each convolution and ``hidden``; rounded up.
        norm: after each convolution; the paper's network has none.
        groups: of group normalisation at width 1 (a narrower model has fewer groups, each of as
            many channels); absent means as many as divide the channels, up to 32.
    """

    hidden: int = 512
    width: float = 1.0
    norm: Norm = "none"
    groups: int | None = None

    def __post_init__(self) -> None:
        _check_from_one(self, MAX_UNITS, "hidden")
        _check_width(self.width)
        _check_norm(self.norm, self.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpOptions:
    """Options of ``mlp``.

    Args:
        hidden: units of each hidden layer; an empty list is softmax regression.
        width: multiplies the units of each hidden layer, rounded up.
    """

    hidden: tuple[int, ...] = (200, 200)
    width: float = 1.0

    def __post_init__(self) -> None:
        if len(self.hidden) > MAX_LAYERS:
            raise ValueError(f"hidden: {len(self.hidden)} layers, at most {MAX_LAYERS} are allowed")
        if not all(1 <= units <= MAX_UNITS for units in self.hidden):
            given = list(self.hidden[:5])
            raise ValueError(
                f"hidden = {given}: every layer needs 1 unit or more, and has at most {MAX_UNITS}"
            )
        _check_width(self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class MobileNetOptions:
    """Options of ``mobilenet_v3_small``.

    Args:
        stem: ``cifar`` keeps the resolution of small images (first convolution with stride 1,
            fewer strides after it); ``imagenet`` is torchvision's own network, stride 32.
        pretrained: start from torchvision's ImageNet weights (needs a network on first use).
        width: multiplies the channels of every layer, rounded up (torchvision rounds to eights).
    """

    stem: Literal["cifar", "imagenet"] = "cifar"
    pretrained: bool = False
    width: float = 1.0

    def __post_init__(self) -> None:
        _check_width(self.width)
        if self.pretrained and self.width != 1.0:
            raise ValueError(f"pretrained = true: the weights are for width = 1, not {self.width}")
        if self.pretrained and self.stem != "imagenet":
            raise ValueError('pretrained = true: the weights are for stem = "imagenet"')


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetOptions:
    """Options of ``resnet18``.

    Args:
        norm: ``batch`` keeps running statistics; ``group``, ``layer`` (one group of all channels)
            and ``none`` keep nothing but parameters.
        groups: of group normalisation at width 1 (a narrower model has fewer groups, each of as
            many channels); absent means as many as divide the channels, up to 32.
        width: multiplies the channels of every layer, rounded up; 0.25 has a sixteenth of the
            parameters.
        blocks: residual blocks of each of the four stages; HeteroFL's network has 1, 1, 1, 2.
        preactivation: normalisation and ReLU before each convolution instead of after it, with one
            more of both before the mean (He et al. 2016, arXiv:1603.05027), as in HeteroFL.
    """

    norm: Norm = "batch"
    groups: int | None = None
    width: float = 1.0
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    preactivation: bool = False

    def __post_init__(self) -> None:
        _check_width(self.width)
        _check_norm(self.norm, self.groups)
        few = sum(self.blocks) <= MAX_LAYERS
        if len(self.blocks) != 4 or min(self.blocks) < 1 or not few:
            raise ValueError(
                f"blocks = {list(self.blocks[:5])}: must be four numbers of 1 or more, together "
                f"{MAX_LAYERS} or fewer"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SsdLiteOptions:
    """Options of ``ssdlite320_mobilenet_v3_large``, a detector.

    Args:
        pretrained: start from torchvision's COCO weights, all but the classes' layers (needs a
            network on first use).
    """

    pretrained: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SsdTinyOptions:
    """Options of ``ssd_tiny``, a detector.

    Args:
        norm: after each convolution of the backbone; as of ``resnet18``.
        groups: of group normalisation at width 1 (a narrower model has fewer groups, each of as
            many channels); absent means as many as divide the channels, up to 32.
        width: multiplies the channels of every layer of the backbone, rounded up.
    """

    norm: Norm = "batch"
    groups: int | None = None
    width: float = 1.0

    def __post_init__(self) -> None:
        _check_width(self.width)
        _check_norm(self.norm, self.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class VitOptions:
    """Options of ``vit``; the defaults suit a processor and images of 32x32.

    Args:
        patch: side in pixels of the squares that the image is cut into.
        dim: numbers per patch, divisible by ``heads``.
        depth: blocks.
        heads: of attention in each block.
        width: multiplies ``dim``; a narrower model has as many heads, each of fewer numbers,
            rounded up.
    """

    patch: int = 4
    dim: int = 64
    depth: int = 4
    heads: int = 4
    width: float = 1.0

    def __post_init__(self) -> None:
        _check_width(self.width)
        _check_from_one(self, MAX_UNITS, "patch", "dim", "heads")
        _check_from_one(self, MAX_LAYERS, "depth")
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim}: must be divisible by heads = {self.heads}")


BUILT_IN: Mapping[str, type] = {
    "char_lstm": CharLstmOptions,
    "cnn": CnnOptions,
    "mlp": MlpOptions,
    "mobilenet_v3_small": MobileNetOptions,
    "resnet18": ResNetOptions,
    "ssd_tiny": SsdTinyOptions,
    "ssdlite320_mobilenet_v3_large": SsdLiteOptions,
    "vit": VitOptions,
}

# These read sequences of tokens, all other built-in ones images.
OF_TEXT = frozenset({"char_lstm"})
# These answer with boxes, all other built-in ones with classes.
OF_BOXES = frozenset({"ssd_tiny", "ssdlite320_mobilenet_v3_large"})

# What a model answers with, and so what its data set has to hold.
ModelKind = Literal["classification", "detection"]


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


def layers_of(model: ModelConfig) -> int:
    """How many layers its options ask for, each of one tensor or more; 0 where they do not say."""
    options = model.options
    if isinstance(options, CharLstmOptions):
        return options.layers
    if isinstance(options, MlpOptions):
        return len(options.hidden)
    if isinstance(options, ResNetOptions):
        return sum(options.blocks)
    return options.depth if isinstance(options, VitOptions) else 0
