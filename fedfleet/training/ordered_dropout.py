"""Trains a narrower part of the model in each step: ordered dropout, as in FjORD.

Horvath et al. 2021, arXiv:2102.13451, section 3.1 and algorithm 1: in each local step a worker
draws a width uniformly from those that it can carry, and trains the first channels of every layer,
so that a part of the model is useful without the rest. Differs from the paper: no distillation from
the widest part to the drawn one (section 3.3), and weight decay and momentum act on all
coordinates, as the optimizer has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedfleet.errors import RecipeInvalid
from fedfleet.models.card import ModelCard
from fedfleet.models.catalog import build
from fedfleet.models.width import narrowed
from fedfleet.training.seeding import isolated_rng, torch_generator
from fedfleet.training.state import CPU, schema_of
from fedfleet.training.submodels import axis_places, width_axes


@dataclass(frozen=True, eq=False)
class _Part:
    """A narrower model; its own parameters are never read.

    Args:
        places: of its parameters in the wide one's, for each axis that is narrower.
    """

    module: nn.Module
    places: Mapping[str, tuple[tuple[int, Tensor], ...]]

    def __call__(self, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        own = {name: _cut(params[name], places) for name, places in self.places.items()}
        answers: Tensor = functional_call(self.module, own, (inputs,))
        return answers


class OrderedDropout(nn.Module):
    """A module that answers in training by a part of itself, drawn anew for each batch.

    Gradients reach the module's own parameters, zero where the drawn part has none. In evaluation
    mode the whole module answers.

    Args:
        card: of the module.
        rates: of the widths to draw from, relative to the module, in (0, 1]; 1 is the module.
        device: of the module.

    Raises:
        RecipeInvalid: the module keeps statistics, or its narrower forms are no parts of it.
    """

    def __init__(
        self, module: nn.Module, card: ModelCard, rates: Sequence[float], device: torch.device
    ) -> None:
        super().__init__()
        check_no_statistics(module)
        self.module = module
        self._params = dict(module.named_parameters())
        # A tuple, so that the parts are no children: their parameters are nobody's.
        self._parts = tuple(
            None if rate == 1.0 else _part_of(module, card, rate, device) for rate in rates
        )
        self._chance = torch_generator(0)

    def reseed(self, seed: int) -> None:
        """Begin the draws of a task."""
        self._chance = torch_generator(seed)

    def forward(self, inputs: Tensor) -> Tensor:
        part = self._draw() if self.training else None
        answers: Tensor = self.module(inputs) if part is None else part(self._params, inputs)
        return answers

    def _draw(self) -> _Part | None:
        return self._parts[int(torch.randint(len(self._parts), (), generator=self._chance))]


def check_no_statistics(module: nn.Module) -> None:
    """Refuse running statistics: those of a part's maps are of no coordinate of the whole.

    Raises:
        RecipeInvalid: the module has persistent buffers.
    """
    kept = module.state_dict().keys() - dict(module.named_parameters(remove_duplicate=False)).keys()
    if kept:
        raise RecipeInvalid(
            f"training.ordered_dropout = true: the model keeps statistics ({sorted(kept)[0]}), "
            "which belong to no one width; use a model with group, layer or no normalisation"
        )


def _part_of(module: nn.Module, card: ModelCard, rate: float, device: torch.device) -> _Part:
    try:
        narrow = replace(card, model=narrowed(card.model, rate))
    except ValueError as error:
        raise RecipeInvalid(f"training.ordered_dropout: width {rate}: {error}") from error
    with isolated_rng(0, CPU):  # the values are never read
        part = build(narrow).to(device).train()
    axes = width_axes(module)
    small = {param.name: param for param in schema_of(part).params}
    places = {}
    for param in schema_of(module).params:
        if param.name not in small:
            raise RecipeInvalid(f"{param.name}: a narrower model has no such tensor")
        found = axis_places(param, small[param.name], axes.get(param.name, {}))
        places[param.name] = tuple(
            (axis, torch.from_numpy(index).to(device))
            for axis, index in enumerate(found)
            if len(index) < param.shape[axis]
        )
    return _Part(part, places)


def _cut(param: Tensor, places: tuple[tuple[int, Tensor], ...]) -> Tensor:
    for axis, index in places:
        param = param.index_select(axis, index)
    return param
