"""JSON that comes from outside: its size, depth and form are checked, every number is finite."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from fedfleet.errors import InvalidInput, LimitExceeded
from fedfleet.types import Kind, ParamSpec, Schema
from fedfleet.wire.limits import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_JSON,
    MAX_TENSOR_NAME,
    MAX_TENSORS,
    check_count,
)

# Levels of lists and objects, one inside the other: whoever reads it later calls itself for each.
MAX_DEPTH = 32


def read_json(what: str, text: str | bytes, most: int = MAX_JSON) -> Any:
    """The value of a JSON text. Any: whatever JSON can hold.

    Args:
        what: names it in errors.
        most: characters, or bytes.

    Raises:
        LimitExceeded: larger than that.
        InvalidInput: no JSON, too deep, a number that is not finite, or a text that is no Unicode.
    """
    if len(text) > most:
        raise LimitExceeded(f"{what}: {len(text)} bytes, at most {most} are allowed")
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite)
        _check_inside(value)
        return value
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what}: is no JSON that can be used: {error}"[:300]) from error


def read_object(what: str, text: str | bytes, most: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object of a text; raises as ``read_json``."""
    value = read_json(what, text, most)
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: must be a JSON object")
    return value


def read_schema(rows: Any) -> Schema:
    """The schema of a JSON list of {name, shape, kind}. Any: it is what ``read_json`` gave.

    Raises:
        LimitExceeded: too many tensors, dimensions or elements, or too long a name.
        InvalidInput: another form.
    """
    if not isinstance(rows, list):
        raise InvalidInput("schema: must be a list of tensors")
    check_count("tensors", len(rows), MAX_TENSORS)
    schema = Schema(tuple(_param(row) for row in rows))
    if len({param.name for param in schema.params}) != len(rows):
        raise InvalidInput("schema: two tensors have the same name")
    check_count("elements", sum(param.elements for param in schema.params), MAX_ELEMENTS)
    return schema


def _param(row: Any) -> ParamSpec:
    if not isinstance(row, dict) or set(row) != {"name", "shape", "kind"}:
        raise InvalidInput("schema: a tensor must have name, shape and kind, and nothing else")
    name, shape, kind = row["name"], row["shape"], row["kind"]
    if not isinstance(name, str) or not name:
        raise InvalidInput("schema: a tensor's name must be a text")
    check_count("characters of a tensor's name", len(name), MAX_TENSOR_NAME)
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
        raise InvalidInput(f"schema: {name[:64]!a}: the shape must be a list of whole numbers")
    check_count("dimensions of a tensor", len(shape), MAX_DIMENSIONS)
    if kind not in [known.value for known in Kind]:
        raise InvalidInput(f"schema: {name[:64]!a}: the kind must be trainable, statistic, counter")
    return ParamSpec(name, tuple(shape), Kind(kind))


def _check_inside(value: Any) -> None:
    """Raises ValueError: too deep, or a text that no file and no message can hold."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        for one in level:
            if isinstance(one, str):
                one.encode()  # half of a surrogate pair cannot be
        lists = [one for one in level if isinstance(one, list)]
        objects = [one for one in level if isinstance(one, dict)]
        level = [inner for one in lists for inner in one]
        level += [inner for one in objects for pair in one.items() for inner in pair]
        if not level:
            return
    raise ValueError(f"more than {MAX_DEPTH} levels")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
