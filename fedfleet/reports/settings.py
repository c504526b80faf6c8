"""A recipe's settings as flat names and values: what tells runs apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fedfleet.errors import RecordInvalid
from fedfleet.tables import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = Mapping[str, Any]  # what TOML can hold, by names such as "training.lr"


def flat_settings(recipe: str) -> dict[str, Any]:
    """The settings of a recipe's text by dotted name, without defaults.

    Raises:
        RecordInvalid: the text is not TOML.
    """
    try:
        tables = tomllib.loads(recipe)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(f"the record's recipe is not TOML: {printable(str(error))}") from error
    flat: dict[str, Any] = {}
    _flatten(tables, "", flat)
    return flat


def is_detector(recipe: str) -> bool:
    """Whether a recipe's text asks for a detector; raises RecordInvalid where it is not TOML."""
    return flat_settings(recipe).get("kind") == "detection"


def _flatten(table: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
    for name, value in table.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", into)
        else:
            into[f"{prefix}{name}"] = value


def differing(settings: Sequence[Settings]) -> list[str]:
    """The names whose values are not the same everywhere, in order of appearance."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({identity(one.get(name)) for one in settings}) > 1]


def identity(value: Any) -> str:
    """A value as text: equal for equal values only (1 and 1.0 and true are three). Any: TOML's."""
    return json.dumps(value, sort_keys=True, default=str)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name's last part, or the whole name where several end alike."""
    last = [name.rpartition(".")[2] for name in names]
    return {
        name: part if last.count(part) == 1 else name
        for name, part in zip(names, last, strict=True)
    }


def shown_value(value: Any) -> str:
    """A value as it stands in a label. Any: TOML's."""
    return printable(value if isinstance(value, str) else identity(value))
