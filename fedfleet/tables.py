"""Turns one table of a recipe into its dataclass; errors name the field, the value, the choices."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fedfleet.errors import RecipeInvalid

T = TypeVar("T")
# What SQLite, protobuf and numpy can hold.
MAX_INTEGER = 2**63 - 1
_MAX_SHOWN = 80


def parse_table(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a table.

    Args:
        where: the table's name, for errors.

    Raises:
        RecipeInvalid: a field is unknown, missing, of another type, or out of range.
    """
    hints = get_type_hints(cls)
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]  # a dataclass
    for name in table:
        if name not in known:
            raise RecipeInvalid(
                f"{where}.{printable(name)}: unknown field; {suggest(name, list(known))}"
            )
    values = {name: convert(hints[name], value, f"{where}.{name}") for name, value in table.items()}
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeInvalid(f"{where}.{name}: missing; it must be {describe(hints[name])}")
    try:
        return cls(**values)
    except ValueError as error:
        raise RecipeInvalid(f"{where}.{error}") from error


def printable(name: str) -> str:
    """A name from outside as it may stand in a line of text: no line breaks, not long."""
    plain = name if name.isprintable() else ascii(name)[1:-1]
    return plain if len(plain) <= _MAX_SHOWN else plain[:_MAX_SHOWN] + "..."


def shown(value: Any) -> str:
    """A TOML value as it may stand in a line of text. Any: whatever a file can hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{printable(value)}"'
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return "a number of more than 63 bits"  # str() refuses to write the longest ones
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value)


def suggest(name: str, allowed: list[str]) -> str:
    """Say what is allowed, the nearest name first."""
    near = get_close_matches(name[:_MAX_SHOWN], allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(sorted(allowed)) or 'nothing'}"


def describe(hint: Any) -> str:
    """A type hint in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args if arg is not type(None))
    if origin is tuple:
        return f"a list, each {describe(args[0])}"
    if origin is Mapping:
        return f"a table, each {describe(args[1])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(hint, "a table")


def convert(hint: Any, value: Any, where: str) -> Any:
    """Check a TOML value against a type hint; whole numbers pass for floats, bools for neither."""
    if hint is Any:
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal and isinstance(value, str) and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(convert(args[0], item, where) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {
            key: convert(args[1], item, f"{where}.{printable(key)}") for key, item in value.items()
        }
    if type(value) is int and abs(value) > MAX_INTEGER:
        raise RecipeInvalid(f"{where} = {shown(value)}: must be from -2^63 to 2^63 - 1")
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise RecipeInvalid(f"{where} = {shown(value)}: must be {describe(hint)}")
