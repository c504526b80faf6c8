"""Keeps a narrow model's outputs as large as the wide model's while it trains.

HeteroFL's scaler (Diao et al. 2021, arXiv:2010.01264, section 3.2): a unit of a model of width r
sums over r times as many inputs, so what a layer gives is divided by r in training. Evaluation
divides by nothing, since the whole model's weights have been trained for sums of the full width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fedfleet.models.card import ModelCard
from fedfleet.models.width import narrowed
from fedfleet.training.submodels import build_for_shapes


def scale_in_training(module: nn.Module, card: ModelCard, rate: float) -> None:
    """Divide the hidden layers' outputs by the rate in training mode, in place.

    Convolutions, dense layers and embeddings of which the module has fewer outputs than the wide
    model; so not the output layer. Not depthwise convolutions, whose sums do not shrink; not
    recurrent layers, whose units are bounded whatever they sum.

    Args:
        card: of the module, which is narrower than the run's.
        rate: its width relative to the run's model, in (0, 1).

    Raises:
        RecipeInvalid: as building the wide model raises.
    """
    whole = build_for_shapes(replace(card, model=narrowed(card.model, 1 / rate)))
    wide = dict(whole.named_modules())
    for name, layer in module.named_modules():
        if name in wide and _is_scaled(layer, wide[name]):
            layer.register_forward_hook(_divide_by(rate))


def _divide_by(rate: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    # Any: what a layer is called with, which nobody looks at.
    def hook(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        return output / rate if layer.training else output

    return hook


def _is_scaled(layer: nn.Module, wide: nn.Module) -> bool:
    if isinstance(layer, nn.Embedding) and isinstance(wide, nn.Embedding):
        return layer.embedding_dim < wide.embedding_dim
    if isinstance(layer, nn.Linear) and isinstance(wide, nn.Linear):
        return layer.out_features < wide.out_features
    if isinstance(layer, _ConvNd) and isinstance(wide, _ConvNd):
        is_depthwise = wide.groups == wide.in_channels > 1
        return layer.out_channels < wide.out_channels and not is_depthwise
    return False
