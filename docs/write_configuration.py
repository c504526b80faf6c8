"""Writes the tables of docs/configuration.md from the dataclasses that the services read.

Run by ``make docs``; tests/unit/test_configuration_doc.py fails when the page is stale.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_type_hints

from fedfleet.algorithms.catalog import CATALOG as ALGORITHMS
from fedfleet.algorithms.catalog import AlgorithmConfig
from fedfleet.cli.settings import CliConfig
from fedfleet.codecs.config import WireConfig
from fedfleet.data import config as data
from fedfleet.env import default_text, variable
from fedfleet.models import config as models
from fedfleet.rounds.config import RoundsConfig
from fedfleet.rounds.levels import LevelsConfig
from fedfleet.rounds.promotion import PromotionConfig
from fedfleet.rounds.recipe import Recipe
from fedfleet.rounds.selection import SELECTIONS
from fedfleet.tables import describe
from fedfleet.training.config import EvaluationConfig, TrainingConfig
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_worker.config import WorkerConfig

PAGE = Path(__file__).parent / "configuration.md"
SERVICES = {
    "fedfleet-coordinator": CoordinatorConfig,
    "fedfleet-worker": WorkerConfig,
    "fedfleet-inference-api": InferenceConfig,
    "fedfleet": CliConfig,
}
# A recipe's tables, and beside each the tables of options that the named choice adds.
RECIPE = {
    "model": models.ModelConfig,
    **{f"model {name}": options for name, options in models.BUILT_IN.items()},
    "data": data.DataConfig,
    **{f"data {name}": options for name, options in data.BUILT_IN.items()},
    "training": TrainingConfig,
    "algorithm": AlgorithmConfig,
    **{f"algorithm {name}": options for name, (options, _) in ALGORITHMS.items()},
    "rounds": RoundsConfig,
    **{f"rounds {name}": options for name, (options, _) in SELECTIONS.items() if fields(options)},
    "evaluation": EvaluationConfig,
    "wire": WireConfig,
    "levels": LevelsConfig,
    "promote": PromotionConfig,
}
# Which the reader finds in the file as names: their values are not in the dataclass.
CHOICES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("model", "architecture"): tuple(models.BUILT_IN),
    ("data", "dataset"): tuple(data.BUILT_IN),
    ("algorithm", "name"): tuple(ALGORITHMS),
    ("rounds", "selection"): tuple(SELECTIONS),
}
_MARK = re.compile(r"(<!-- table: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
_ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*): (?P<text>.*)")


def tables() -> Iterator[tuple[str, Callable[[], str]]]:
    """Every table of the page by its mark's name."""
    for service, config in SERVICES.items():
        yield service, lambda config=config: service_table(config)  # type: ignore[misc]
    yield "recipe", lambda: recipe_table("recipe", Recipe, only=("name", "seed"))
    for name, config in RECIPE.items():
        yield name, lambda name=name, config=config: recipe_table(name, config)  # type: ignore[misc]


def render(page: str) -> str:
    """The page with every table written anew.

    Raises:
        KeyError: a mark names no table.
    """
    known = dict(tables())
    return _MARK.sub(lambda match: match[1] + known[match["name"]]() + match[4], page)


def marks(page: str) -> list[str]:
    """Names of the page's tables, in order."""
    return [match["name"] for match in _MARK.finditer(page)]


def service_table(config: type) -> str:
    """Variables, defaults, meanings."""
    rows = [
        (f"`{variable(item)}`", _environment_default(item), item.metadata["help"])
        for item in fields(config)
    ]
    return _markdown(("variable", "default", "meaning"), rows)


def recipe_table(name: str, config: type, only: tuple[str, ...] = ()) -> str:
    """Fields, allowed values, defaults, meanings; the meanings are the docstring's."""
    hints = get_type_hints(config)
    meanings: dict[str, str] = {}
    for one in reversed(config.__mro__):  # options that a class inherits are documented there
        meanings |= _arguments(one)
    rows = []
    for item in fields(config):
        if item.name == "options" or (only and item.name not in only):
            continue
        choices = CHOICES.get((name, item.name))
        value = ", ".join(f'"{c}"' for c in choices) if choices else describe(hints[item.name])
        value = re.sub(r'"[^"]*"', r"`\g<0>`", value.removeprefix("one of "))
        meaning = meanings.get(item.name, "")
        rows.append((f"`{item.name}`", value, _toml_default(item), meaning.removesuffix(".")))
    return _markdown(("field", "value", "default", "meaning"), rows)


def _environment_default(item: Field[Any]) -> str:
    text = default_text(item)
    return text if text in ("required", "not set") else f"`{text}`"


def _toml_default(item: Field[Any]) -> str:
    if item.name == "seed":
        return "`0`"
    if item.default is MISSING:
        return "required"
    if item.default is None:
        return "absent"
    value = list(item.default) if isinstance(item.default, tuple) else item.default
    return f"`{json.dumps(value)}`"


def _arguments(config: type) -> dict[str, str]:
    """The Args section of a class's docstring by name; ``a, b: text`` documents both."""
    text = inspect.cleandoc(config.__doc__ or "").partition("\nArgs:\n")[2]
    section = re.split(r"\n\n", text)[0]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = _ENTRY.fullmatch(line.strip()) if re.match(r" {4}\S", line) else None
        if entry:
            names = entry["names"].split(", ")
            found.update(dict.fromkeys(names, entry["text"]))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return "No options.\n"
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
