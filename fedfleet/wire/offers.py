"""A version that is offered to a coordinator, checked before any of its bytes are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfleet.errors import ChecksumMismatch, InvalidInput, SchemaMismatch
from fedfleet.models.card import ModelCard
from fedfleet.models.config import layers_of
from fedfleet.types import Evaluation, ModelState, Schema
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_from_json
from fedfleet.wire.level_statistics import check_level_statistics, room_for_levels
from fedfleet.wire.limits import (
    MAX_ALIASES,
    MAX_CLASSES,
    MAX_IMPORT_BYTES,
    check_count,
    check_digest,
    check_model_name,
)
from fedfleet.wire.strict_json import read_json, read_object, read_schema
from fedfleet.wire.weights import decode_state

# What a safetensors file says beside its values: for each tensor its name (escaped) and a few
# numbers, and a table of texts that other programs leave in it.
_FILE_ROOM, _TENSOR_ROOM, _ESCAPED = 1 << 16, 512, 6


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What an import's header says, in the form in which a record has it.

    Args:
        model: what the version's model is to be called here.
        lineage: where the version comes from. JSON object.
    """

    model: str
    digest: str
    size_bytes: int
    schema: Schema
    card: ModelCard
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    aliases: tuple[str, ...]


def offer_from_message(header: pb.ImportHeader) -> Offer:
    """Read a header that may come from anybody.

    Raises:
        LimitExceeded, InvalidInput: it cannot be a version of ours.
        RecipeInvalid, UnknownModel: the card cannot be used here.
        SchemaMismatch: its model has more layers than there are tensors, or other classes than
            the evaluation.
    """
    check_count("bytes", header.size_bytes, MAX_IMPORT_BYTES)
    check_count("aliases", len(header.aliases), MAX_ALIASES)
    schema = read_schema(read_json("schema", header.schema_json))
    check_size(schema, header.size_bytes)
    card = ModelCard.from_json(read_object("card", header.card_json))
    check_count("classes", len(card.classes), MAX_CLASSES)
    check_layers(card, schema)
    metrics = read_object("metrics", header.metrics_json or "{}")
    if metrics.get("evaluation") is not None:
        check_classes(card, evaluation_from_json(metrics["evaluation"]))
    return Offer(
        model=check_model_name(header.model),
        digest=check_digest(header.digest),
        size_bytes=header.size_bytes,
        schema=schema,
        card=card,
        metrics=metrics,
        lineage=read_object("lineage", header.lineage_json or "{}"),
        aliases=tuple(dict.fromkeys(header.aliases)),
    )


def check_size(schema: Schema, size_bytes: int) -> None:
    """Raises InvalidInput: no safetensors file of these tensors has so many bytes."""
    values = sum(param.elements * param.kind.dtype.itemsize for param in schema.params)
    beside = sum(_TENSOR_ROOM + _ESCAPED * len(param.name) for param in schema.params)
    beside += _FILE_ROOM + room_for_levels(schema)
    if not values < size_bytes <= values + beside:
        raise InvalidInput(
            f"{size_bytes} bytes: a file of the schema's tensors has {values} and some for names"
        )


def check_layers(card: ModelCard, schema: Schema) -> None:
    """Raises SchemaMismatch: building the model would take time that its tensors do not account
    for.
    """
    layers = layers_of(card.model)
    if layers > len(schema.params):
        raise SchemaMismatch(
            f"the card's model has {layers} layers, more than the weights have tensors "
            f"({len(schema.params)})"
        )


def check_classes(card: ModelCard, evaluation: Evaluation) -> None:
    """Raises SchemaMismatch: the evaluation is of another model."""
    measured = len(evaluation.class_samples)
    if measured != len(card.classes):
        raise SchemaMismatch(
            f"the evaluation is of {measured} classes, the card has {len(card.classes)}"
        )


def check_weights(schema: Schema, data: bytes) -> ModelState:
    """The state that a file holds.

    Raises:
        SchemaMismatch: not a safetensors file of this schema's tensors, or the statistics of
            narrower levels in it are none.
        InvalidInput: it holds a value that is not finite.
    """
    state = decode_state(schema, data)
    check_level_statistics(schema, data)
    for vector in (state.trainable, state.statistics):
        if not np.isfinite(vector).all():
            raise InvalidInput("the weights hold values that are not finite: nothing can use them")
    return state


def check_whole(digest: str, found: str) -> None:
    """Raises ChecksumMismatch: the bytes are other ones."""
    if digest != found:
        raise ChecksumMismatch(f"the weights have SHA-256 {found[:12]}, not {digest[:12]}")


def check_model(card_schema: Schema, schema: Schema) -> None:
    """Raises SchemaMismatch: the card builds another model than the one the tensors are of."""
    if card_schema == schema:
        return
    wanted = {param.name: param for param in card_schema.params}
    given = {param.name: param for param in schema.params}
    odd = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
    named = ", ".join(ascii(name)[1:-1][:64] for name in odd[:3]) or "their order"
    raise SchemaMismatch(f"the card's model has other tensors than the weights: {named}")
