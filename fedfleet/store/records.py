"""Records as the text that a store keeps, the same in every store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fedfleet.errors import StoreUnavailable
from fedfleet.types import Schema


def to_text(value: Mapping[str, Any]) -> str:
    """A JSON object as compact text."""
    return json.dumps(value, separators=(",", ":"))


def from_text(text: str | bytes) -> dict[str, Any]:
    """The JSON object of a text made by ``to_text``; a new one with every call.

    Raises:
        StoreUnavailable: the text is none of ``to_text``.
    """
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(error) from error
    if not isinstance(value, dict):
        raise _damaged(value)
    return value


def schema_to_text(schema: Schema) -> str:
    """A schema as compact JSON."""
    return json.dumps(schema.to_json(), separators=(",", ":"))


@lru_cache(maxsize=64)
def schema_from_text(text: str) -> Schema:
    """The schema; shared between calls, for a list of versions repeats a few of them.

    Raises:
        StoreUnavailable: the text is none of ``schema_to_text``.
    """
    try:
        return Schema.from_json(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(error) from error


def _damaged(found: object) -> StoreUnavailable:
    return StoreUnavailable(
        "a record in the store is damaged, or was altered: restore the store from a copy",
        detail=f"{found!r:.200}",
    )
