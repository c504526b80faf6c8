"""Finds the place of narrow models in a wide one by building both.

HeteroFL (Diao et al. 2021, arXiv:2010.01264, section 3.1): a level is the same architecture at a
smaller width, and its tensors are the first elements of the wide model's along every axis. FedRolex
(Alam et al. 2022, arXiv:2212.01548, algorithm 1) takes another window of channels in each round.

An axis may be made of blocks of channels (the gates of an LSTM, the heads of attention), of which
each gives its first, and a channel may be several elements long (flattened maps). torch's own
layers are known here; another module says so by an attribute ``width_axes``: for the name of one of
its own tensors, for an axis, how many blocks it has and how many elements a channel has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedfleet.aggregation.slices import Slice
from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.width import narrowed
from fedfleet.training.output_layer import output_layer
from fedfleet.training.seeding import isolated_rng
from fedfleet.training.state import CPU, schema_of
from fedfleet.types import Kind, ParamSpec, Schema

Index = npt.NDArray[np.int64]
# For an axis: blocks, and elements of a channel.
Axes = Mapping[int, tuple[int, int]]

_WHOLE: tuple[int, int] = (1, 1)
_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def slice_between(full: nn.Module, part: nn.Module, *, shift: int = 0) -> Slice:
    """Where a narrow module's tensors lie in a wide one's.

    Args:
        full, part: of one architecture; may be on the meta device.
        shift: of the window of channels along every axis that is narrower, modulo its length. An
            axis of which all is taken (inputs, classes) is not moved.

    Raises:
        RecipeInvalid: the modules hold different tensors, or one does not fit into the other.
    """
    check_nested(full, part)
    return _slice(schema_of(full), schema_of(part), width_axes(full), shift)


def check_nested(full: nn.Module, part: nn.Module) -> None:
    """Check that a narrow module's tensors lie in a wide one's, without saying where.

    Raises:
        RecipeInvalid: as ``slice_between``.
    """
    axes = width_axes(full)
    if axes != width_axes(part):
        raise RecipeInvalid("the width_axes of a narrower model are not those of the wide one")
    wide, narrow = schema_of(full), schema_of(part)
    if [(p.name, p.kind) for p in wide.params] != [(p.name, p.kind) for p in narrow.params]:
        raise RecipeInvalid("a narrower model has other tensors than the wide one")
    for param, small in zip(wide.params, narrow.params, strict=True):
        axis_places(param, small, axes.get(param.name, {}))


def _slice(wide: Schema, narrow: Schema, axes: Mapping[str, Axes], shift: int) -> Slice:
    places: dict[Kind, list[Index]] = {kind: [np.zeros(0, np.int64)] for kind in Kind}
    for kind in Kind:
        parts = [param for param in narrow.params if param.kind is kind]
        for (param, place), small in zip(wide.layout(kind), parts, strict=True):
            flat = tensor_places(param, small, axes.get(param.name, {}), shift)
            places[kind].append(flat + place.start)
    return Slice(wide, narrow, {kind: np.concatenate(found) for kind, found in places.items()})


def axis_places(param: ParamSpec, part: ParamSpec, axes: Axes, shift: int = 0) -> tuple[Index, ...]:
    """Per axis, which places of a tensor a narrower one of the same name holds.

    Raises:
        RecipeInvalid: it is no part of it.
    """
    if len(param.shape) != len(part.shape):
        raise _does_not_nest(param, part)
    found = []
    for axis, (wide, narrow) in enumerate(zip(param.shape, part.shape, strict=True)):
        blocks, length = axes.get(axis, _WHOLE)
        pieces = blocks * length
        if narrow > wide or wide % pieces or narrow % pieces:
            raise _does_not_nest(param, part)
        found.append(_window(wide // pieces, narrow // pieces, blocks, length, shift))
    return tuple(found)


def tensor_places(param: ParamSpec, part: ParamSpec, axes: Axes, shift: int = 0) -> Index:
    """The flat positions in a tensor that a narrower one holds, increasing."""
    index: Index = np.zeros((), np.int64)
    for wide, here in zip(param.shape, axis_places(param, part, axes, shift), strict=True):
        index = index[..., None] * wide + here
    return index.reshape(-1)


def _window(wide: int, narrow: int, blocks: int, length: int, shift: int) -> Index:
    """A window of channels, wrapped around and sorted, in each block of an axis."""
    start = shift % wide if wide and narrow < wide else 0
    channels = np.sort((start + np.arange(narrow, dtype=np.int64)) % max(wide, 1))
    within = (channels[:, None] * length + np.arange(length)).reshape(-1)
    return (np.arange(blocks)[:, None] * (wide * length) + within).reshape(-1)


def _does_not_nest(param: ParamSpec, part: ParamSpec) -> RecipeInvalid:
    return RecipeInvalid(
        f"{param.name} of a narrower model has shape {part.shape}, which is no part of "
        f"{param.shape}; see width_axes in docs/plugins.md"
    )


def width_axes(module: nn.Module) -> dict[str, Axes]:
    """What a module and those in it say of their tensors' axes, by the tensor's full name."""
    found: dict[str, Axes] = {}
    for path, inner in module.named_modules():
        own = getattr(inner, "width_axes", None)
        for name, axes in (_known(inner) if own is None else own).items():
            found[f"{path}.{name}" if path else name] = axes
    return found


def _known(module: nn.Module) -> Mapping[str, Axes]:
    """The blocks in torch's own layers."""
    if isinstance(module, nn.RNNBase):
        return _of_recurrent(module)
    if isinstance(module, nn.MultiheadAttention):
        heads = module.num_heads
        return {
            "in_proj_weight": {0: (3 * heads, 1)},
            "in_proj_bias": {0: (3 * heads, 1)},
            **{f"{name}_proj_weight": {0: (heads, 1)} for name in "qkv"},
            "out_proj.weight": {1: (heads, 1)},
            "bias_k": {2: (heads, 1)},
            "bias_v": {2: (heads, 1)},
        }
    return {}


def _of_recurrent(module: nn.RNNBase) -> Mapping[str, Axes]:
    gates, ways = _GATES[module.mode], 2 if module.bidirectional else 1
    found: dict[str, Axes] = {}
    for name, _ in module.named_parameters(recurse=False):
        if name.startswith("weight_hr"):
            continue
        found[name] = {0: (gates, 1)}
        is_above = name.startswith("weight_ih") and not name.startswith("weight_ih_l0")
        if is_above and ways == 2:  # reads both directions of the layer below
            found[name] = {0: (gates, 1), 1: (ways, 1)}
    return found


class SubModels:
    """The levels of a run's model: names, cards, schemas, slices.

    No weights are kept, and none of a built-in model are ever allocated; index vectors are, of
    eight bytes per element of a level.

    Args:
        card: the run's model, which is level ``a``.
        rates: widths relative to it, the first 1, each smaller than the one before.

    Raises:
        RecipeInvalid: the architecture does not get narrower with its width, or what is narrower
            is no part of what is wider.
    """

    def __init__(self, card: ModelCard, rates: Sequence[float]) -> None:
        if not rates or rates[0] != 1.0 or any(b >= a for a, b in pairwise(rates)):
            raise RecipeInvalid(f"levels.rates = {list(rates)}: must begin with 1.0 and fall")
        self.levels = tuple(chr(ord("a") + place) for place in range(len(rates)))
        self._rates = dict(zip(self.levels, rates, strict=True))
        self._cards = {level: _narrow_card(card, rate) for level, rate in self._rates.items()}
        whole = build_for_shapes(card)
        self._axes = width_axes(whole)
        self._schemas = {self.levels[0]: schema_of(whole)}
        self._slices: dict[tuple[str, int], Slice] = {}
        name = card.model.architecture
        for wider, level in pairwise(self.levels):
            try:
                part = build_for_shapes(self._cards[level])
                check_nested(whole, part)
            except RecipeInvalid as error:
                raise RecipeInvalid(f'levels: architecture = "{name}": {error}') from error
            self._schemas[level] = schema_of(part)
            if self._schemas[level] == self._schemas[wider]:
                raise RecipeInvalid(
                    f'levels: architecture = "{name}" is no narrower at rate '
                    f"{self._rates[level]} than at {self._rates[wider]}; leave that rate out, or "
                    "let the model's option width multiply its channels"
                )

    def card(self, level: str) -> ModelCard:
        return self._cards[level]

    def schema(self, level: str) -> Schema:
        return self._schemas[level]

    def rate(self, level: str) -> float:
        return self._rates[level]

    def slice(self, level: str, round: int = 1, *, rolling: bool = False) -> Slice:
        """The level's place in the whole model.

        Args:
            round: counted from 1.
            rolling: move the window by one channel in each round, as in FedRolex, instead of
                taking the first channels. Group normalisation then takes channels together that
                are of two groups of the whole model, unless groups hold one channel.
        """
        if level == self.levels[0]:
            return Slice.whole(self._schemas[level])
        shift = round - 1 if rolling else 0
        key = (level, shift)
        if key not in self._slices:
            # One window per level besides the first: they are as large as the model.
            for old in [k for k in self._slices if k[0] == level and k[1] and shift]:
                del self._slices[old]
            wide, narrow = self._schemas[self.levels[0]], self._schemas[level]
            self._slices[key] = _slice(wide, narrow, self._axes, shift)
        return self._slices[key]

    def output(self, level: str) -> npt.NDArray[np.int32]:
        """For each position of a level's trainable vector the class whose row it is in.

        Returns:
            Shape (P,), -1 where it is in no row of the output layer.

        Raises:
            RecipeInvalid: no layer can be told to be the last one.
        """
        schema, classes = self._schemas[level], len(self._cards[level].classes)
        path = output_layer(build_for_shapes(self._cards[level]), classes)
        rows = np.full(schema.elements(Kind.TRAINABLE), -1, np.int32)
        for param, place in schema.layout(Kind.TRAINABLE):
            if param.name in (f"{path}.weight", f"{path}.bias"):
                rows[place] = np.repeat(np.arange(classes), param.elements // classes)
        return rows


def build_for_shapes(card: ModelCard) -> nn.Module:
    """Build a card's module to look at its shapes, without memory for its weights if it can be."""
    with isolated_rng(0, CPU):
        try:
            with torch.device("meta"):
                return build(card)
        except (NotImplementedError, RuntimeError, TypeError):
            # A plug-in may compute with its first weights, and here it has none.
            return build(card)


def _narrow_card(card: ModelCard, rate: float) -> ModelCard:
    try:
        return replace(card, model=narrowed(card.model, rate))
    except ValueError as error:
        raise RecipeInvalid(f"levels.rates: {rate}: {error}") from error
