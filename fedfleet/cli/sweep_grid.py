"""The runs of a sweep: every combination of the values that are set, each a recipe of its own."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfleet.errors import RecipeInvalid, SettingInvalid
from fedfleet.reports.settings import identity, short_names, shown_value
from fedfleet.rounds.recipe import parse_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 80  # characters of a folder's name
MOST_RUNS = 10_000


@dataclass(frozen=True)
class GridRun:
    """One run.

    Args:
        name: of its folder.
        values: what is set, by dotted name. Any: TOML's values.
        recipe: the TOML text.
    """

    name: str
    values: Mapping[str, Any]
    recipe: str


def grid(recipe: str, settings: Sequence[str]) -> list[GridRun]:
    """Make the runs; the last setting varies fastest.

    Args:
        recipe: the TOML text that the settings change; valid.
        settings: each ``NAME=VALUE,VALUE...``, the name dotted, the values as in TOML; a word that
            is no TOML value is taken as text.

    Raises:
        SettingInvalid: a setting is not of that form, or says something twice.
        RecipeInvalid: a combination is no valid recipe; the text names it.
    """
    named: dict[str, list[Any]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise SettingInvalid(f"--set {setting!r}: must be NAME=VALUE[,VALUE...]")
        if name.strip() in named:
            raise SettingInvalid(f"--set {name.strip()}: is given twice")
        named[name.strip()] = _values(name.strip(), text)
    count = 1
    for values in named.values():
        count *= len(values)
    if count > MOST_RUNS:
        raise SettingInvalid(f"--set: makes {count} runs; at most {MOST_RUNS}")
    points = [
        dict(zip(named, values, strict=True)) for values in itertools.product(*named.values())
    ]
    tables = tomllib.loads(recipe)
    short = short_names(list(named))
    names = _folder_names([_label(point, short) for point in points])
    return [
        GridRun(name, point, _recipe(tables, point))
        for name, point in zip(names, points, strict=True)
    ]


def _values(name: str, text: str) -> list[Any]:
    """The values of a list without its brackets."""
    found = _toml_list(text)
    if found is None:  # words without quotes
        found = [_word(part.strip()) for part in text.split(",")]
    if "" in found or len({identity(value) for value in found}) < len(found):
        raise SettingInvalid(f"--set {name}={text}: a value is empty, or given twice")
    return found


def _toml_list(text: str) -> list[Any] | None:
    if "\n" in text or "#" in text:  # more than a list, or less
        return None
    try:
        found: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except (ValueError, RecursionError):
        return None
    return found


def _word(text: str) -> Any:
    found = _toml_list(text)
    return found[0] if found is not None and len(found) == 1 else text


def _label(point: Mapping[str, Any], short: Mapping[str, str]) -> str:
    return ",".join(f"{short[name]}={shown_value(value)}" for name, value in point.items())


def _folder_names(labels: Sequence[str]) -> list[str]:
    names = [re.sub(r"[^A-Za-z0-9._=,+-]+", "_", label).lstrip(".") for label in labels]
    return [
        name
        if names.count(name) == 1 and len(name) <= _LONGEST
        else f"{name[:_LONGEST]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        for name, label in zip(names, labels, strict=True)
    ]


def _recipe(tables: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    changed: dict[str, Any] = copy.deepcopy(dict(tables))
    setting = ", ".join(f"{name} = {_toml(value)}" for name, value in point.items())
    for name, value in point.items():
        *path, last = name.split(".")
        table = changed
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise SettingInvalid(f"--set {name}: {part} is no table of a recipe")
        table[last] = value
    text = "\n".join([f"# Made by fedfleet sweep: {setting}", *_lines(changed, "")]) + "\n"
    try:
        parse_recipe(text)
    except RecipeInvalid as error:
        raise RecipeInvalid(f"with {setting}: {error.message}") from error
    return text


def _lines(table: Mapping[str, Any], prefix: str) -> list[str]:
    """TOML: the table's values, then its tables."""
    lines = [
        f"{_key(name)} = {_toml(value)}"
        for name, value in table.items()
        if not isinstance(value, dict)
    ]
    for name, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{_key(name)}]", *_lines(value, f"{prefix}{_key(name)}.")]
    return lines


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_key(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {pairs} }}"
    return str(value)  # a date or a time, which are written as they read


def _text(value: str) -> str:
    # What JSON leaves as it is and TOML does not allow.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
