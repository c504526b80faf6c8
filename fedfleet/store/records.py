"""Records as the text that a store keeps, the same in every store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fedfleet.types import Schema


def to_text(value: Mapping[str, Any]) -> str:
    """A JSON object as compact text."""
    return json.dumps(value, separators=(",", ":"))


def from_text(text: str) -> dict[str, Any]:
    """The JSON object of a text made by ``to_text``; a new one with every call."""
    value: dict[str, Any] = json.loads(text)
    return value


def schema_to_text(schema: Schema) -> str:
    """A schema as compact JSON."""
    return json.dumps(schema.to_json(), separators=(",", ":"))


@lru_cache(maxsize=64)
def schema_from_text(text: str) -> Schema:
    """The schema; shared between calls, for a list of versions repeats a few of them."""
    return Schema.from_json(json.loads(text))
