"""The architectures by name: the one place where a new built-in is entered.

A built-in is named as an entry point names it and imported when it is first built, so that a
device that trains a small network never loads torchvision (more than a second on two cores).
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import nn

from fedfleet import plugins
from fedfleet.errors import RecipeInvalid, UnknownModel
from fedfleet.models.card import ModelCard
from fedfleet.models.config import BUILT_IN, OF_BOXES, OF_TEXT
from fedfleet.tables import suggest

# Each is a function (inputs, num_classes, options) -> nn.Module.
BUILDERS: Mapping[str, str] = {
    "char_lstm": "fedfleet.models.char_lstm:build",
    "cnn": "fedfleet.models.cnn:build",
    "mlp": "fedfleet.models.mlp:build",
    "mobilenet_v3_small": "fedfleet.models.mobilenet:build",
    "resnet18": "fedfleet.models.resnet:build",
    "ssd_tiny": "fedfleet.models.ssd_tiny:build",
    "ssdlite320_mobilenet_v3_large": "fedfleet.models.ssdlite:build",
    "vit": "fedfleet.models.vit:build",
}

# Each is a function (module) -> None that overwrites the random start where the recipe asks.
PRETRAINED: Mapping[str, str] = {
    "mobilenet_v3_small": "fedfleet.models.mobilenet:load_pretrained",
    "ssdlite320_mobilenet_v3_large": "fedfleet.models.ssdlite:load_pretrained",
}


def build(card: ModelCard) -> nn.Module:
    """Build the card's network with random weights from torch's global generator.

    Never touches the network: workers and the inference service load received weights into it.

    Raises:
        UnknownModel: neither built in nor an installed plug-in that can be imported.
        RecipeInvalid: the architecture cannot take these inputs or options.
    """
    name, options = card.model.architecture, card.model.options
    if name not in BUILDERS:
        return _build_plugin(card)
    if card.inputs.is_tokens != (name in OF_TEXT):
        reads, held = ("text", "images") if name in OF_TEXT else ("images", "text")
        fitting = sorted(n for n in BUILDERS if card.inputs.is_tokens == (n in OF_TEXT))
        raise RecipeInvalid(
            f'architecture = "{name}": reads {reads}, the data set holds {held}; '
            f"use {', '.join(fitting)}"
        )
    if (card.kind == "detection") != (name in OF_BOXES):
        answer = "boxes" if name in OF_BOXES else "classes"
        fitting = sorted(n for n in BUILDERS if (card.kind == "detection") == (n in OF_BOXES))
        raise RecipeInvalid(
            f'architecture = "{name}": answers with {answer}, which does not fit kind = '
            f'"{card.kind}"; use {", ".join(fitting)}'
        )
    # Any: each builder takes its own options class, which the recipe or the card has checked.
    builder: Any = pkgutil.resolve_name(BUILDERS[name])
    module: nn.Module = builder(card.inputs, len(card.classes), options)
    return module


def build_initial(card: ModelCard) -> nn.Module:
    """Build the network that a run starts from: pretrained where its options say so.

    Raises:
        Unavailable: the pretrained weights cannot be fetched. Further as ``build``.
    """
    module = build(card)
    if getattr(card.model.options, "pretrained", False):
        load: Any = pkgutil.resolve_name(PRETRAINED[card.model.architecture])
        load(module)
    return module


def _build_plugin(card: ModelCard) -> nn.Module:
    """Call a plug-in's ``(inputs, num_classes, **options)`` and check what it returns."""
    name, options = card.model.architecture, dict(card.model.options)
    if card.kind == "detection":
        raise RecipeInvalid(
            f'architecture = "{name}": a plug-in\'s anchors are not known, so it cannot be of kind '
            f'"detection"; use {", ".join(sorted(OF_BOXES))}'
        )
    builder = _load_plugin(name)
    try:
        # Bound first, so that a TypeError from inside the plug-in is not taken for bad options.
        inspect.signature(builder).bind(card.inputs, len(card.classes), **options)
    except (TypeError, ValueError) as error:  # ValueError: it has no signature to look at
        raise RecipeInvalid(f'the options of model "{name}" do not fit it: {error}') from error
    try:
        module = builder(card.inputs, len(card.classes), **options)
    except ValueError as error:
        raise RecipeInvalid(f'model "{name}": {error}') from error
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise UnknownModel(f'the plug-in "{name}" returned {kind}, not a torch.nn.Module')
    return module


def _load_plugin(name: str) -> Any:
    try:
        builder = plugins.load(plugins.MODELS, name)
    except KeyError:
        known = suggest(name, [*BUILT_IN, *plugins.names(plugins.MODELS)])
        raise UnknownModel(f'architecture = "{name}": not installed here; {known}') from None
    except (ImportError, AttributeError) as error:
        raise UnknownModel(f'the plug-in "{name}" cannot be imported: {error}') from error
    if not callable(builder):
        raise UnknownModel(f'the plug-in "{name}" is not callable; see docs/plugins.md')
    return builder
