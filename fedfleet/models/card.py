"""The model card: all that is needed to rebuild and serve a version; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from fedfleet import plugins
from fedfleet.errors import RecipeInvalid, UnknownModel
from fedfleet.models.config import BUILT_IN, ModelConfig, ModelKind
from fedfleet.tables import parse_table, suggest
from fedfleet.types import InputSpec, Json

_INPUT_FIELDS = {"channels", "height", "width", "mean", "std"}
# Larger sides than any architecture here trains on; keeps junk from asking for huge buffers.
MAX_SIDE = 4096
MAX_CHANNELS = 64
MAX_VALUES = 2**24  # of one image: a batch of them is in memory as floats
MAX_VOCABULARY = 256  # a token is a byte
_LARGEST = 1e6  # of a mean or a standard deviation of pixels in [0, 1]


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """An architecture bound to its inputs and labels.

    Args:
        classes: label names in the order of the model's outputs, two or more; one is enough for
            a detector.
        kind: what the model answers with.
    """

    model: ModelConfig
    inputs: InputSpec
    classes: tuple[str, ...]
    kind: ModelKind = "classification"

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        options = self.model.options
        plain = dict(options) if isinstance(options, Mapping) else asdict(options)
        given = {key: value for key, value in plain.items() if value is not None}
        return {
            "architecture": self.model.architecture,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()},
            "inputs": self.inputs.to_json(),
            "classes": list(self.classes),
            # As they were before there were detectors, so that old cards keep their digests.
            **({"kind": self.kind} if self.kind != "classification" else {}),
        }

    @classmethod
    def from_json(cls, value: Json) -> ModelCard:
        """Rebuild a card, checking every field.

        Raises:
            UnknownModel: the architecture is neither built in nor installed as a plug-in.
            RecipeInvalid: anything else is missing, unknown, of another type or out of range.
        """
        if not isinstance(value, Mapping):
            raise RecipeInvalid(f"card = {value!r}: must be a table")
        for name in ("architecture", "options", "inputs", "classes"):
            if name not in value:
                raise RecipeInvalid(f"card.{name}: missing")
        kind = value.get("kind", "classification")
        if kind not in get_args(ModelKind):
            allowed = ", ".join(get_args(ModelKind))
            raise RecipeInvalid(f"card.kind = {kind!r}: must be one of {allowed}")
        return cls(
            model=_model(value["architecture"], value["options"]),
            inputs=_inputs(value["inputs"]),
            classes=_classes(value["classes"], least=1 if kind == "detection" else 2),
            kind=kind,
        )


def _model(architecture: Any, options: Any) -> ModelConfig:
    if not isinstance(options, Mapping):
        raise RecipeInvalid(f"card.options = {options!r}: must be a table")
    if not isinstance(architecture, str):
        raise RecipeInvalid(f"card.architecture = {architecture!r}: must be a text")
    if architecture in BUILT_IN:
        parsed: Any = parse_table(BUILT_IN[architecture], options, "card.options")
        return ModelConfig(architecture=architecture, options=parsed)
    installed = plugins.names(plugins.MODELS)
    if architecture not in installed:
        known = suggest(architecture, [*BUILT_IN, *installed])
        raise UnknownModel(f'architecture = "{architecture}": not installed here; {known}')
    return ModelConfig(architecture=architecture, options=dict(options))


def _inputs(value: Any) -> InputSpec:
    fields = set(value) if isinstance(value, Mapping) else set()
    if fields - {"vocabulary"} != _INPUT_FIELDS:
        raise RecipeInvalid(f"card.inputs: must be a table of {', '.join(sorted(_INPUT_FIELDS))}")
    if "vocabulary" in fields:
        return _tokens(value)
    channels = _whole(value, "channels", MAX_CHANNELS)
    height, width = _whole(value, "height", MAX_SIDE), _whole(value, "width", MAX_SIDE)
    if channels * height * width > MAX_VALUES:
        raise RecipeInvalid(
            f"card.inputs: an image of {channels} x {height} x {width} values, at most {MAX_VALUES}"
        )
    return InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=_per_channel("mean", value["mean"], channels, above=-_LARGEST),
        std=_per_channel("std", value["std"], channels, above=0.0),
    )


def _tokens(value: Json) -> InputSpec:
    """The inputs of a model of text."""
    inputs = InputSpec.tokens(
        length=_whole(value, "width", MAX_SIDE),
        vocabulary=_whole(value, "vocabulary", MAX_VOCABULARY),
    )
    for name, want in inputs.to_json().items():
        given = list(value[name]) if isinstance(value[name], tuple) else value[name]
        if type(given) is not type(want) or given != want:
            raise RecipeInvalid(f"card.inputs.{name} = {given!r}: of text it must be {want}")
    return inputs


def _whole(value: Json, name: str, largest: int) -> int:
    number = value[name]
    if type(number) is not int or not 1 <= number <= largest:
        raise RecipeInvalid(f"card.inputs.{name} = {number!r}: must be from 1 to {largest}")
    return number


def _per_channel(name: str, value: Any, channels: int, *, above: float) -> tuple[float, ...]:
    """One number per channel, each above a bound and not huge."""
    if not isinstance(value, (list, tuple)) or len(value) != channels:
        raise RecipeInvalid(f"card.inputs.{name}: must be a list of {channels} numbers")
    for number in value:
        if type(number) not in (int, float) or not above < number <= _LARGEST:
            raise RecipeInvalid(f"card.inputs.{name}: holds {number!r}, which is out of range")
    return tuple(float(number) for number in value)


def _classes(value: Any, least: int) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise RecipeInvalid("card.classes: must be a list of texts")
    if len(value) < least or len(set(value)) != len(value):
        number = "two" if least > 1 else "one"
        raise RecipeInvalid(f"card.classes: needs {number} or more different names")
    return tuple(value)
