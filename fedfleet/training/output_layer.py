"""Finds the layer whose outputs are the classes."""

from __future__ import annotations

from torch import nn

from fedfleet.errors import RecipeInvalid


def output_layer(module: nn.Module, num_classes: int) -> str:
    """The name of the layer that gives the logits, one row per class.

    A module may name it in an attribute ``output_layer``; else it is the last of its layers that
    has parameters.

    Raises:
        RecipeInvalid: that layer has no row per class.
    """
    named = getattr(module, "output_layer", None)
    layers = [
        name for name, layer in module.named_modules() if any(True for _ in layer.parameters(False))
    ]
    path = str(named) if named is not None else (layers[-1] if layers else "")
    own = dict(module.named_parameters())
    rows = {p: own[p].shape[0] for p in (f"{path}.weight", f"{path}.bias") if p in own}
    if f"{path}.weight" not in rows or set(rows.values()) != {num_classes}:
        raise RecipeInvalid(
            f"the layer {path!r} has no row per class ({num_classes}): name the one that gives "
            "the logits in the model's attribute output_layer; see docs/plugins.md"
        )
    return path
