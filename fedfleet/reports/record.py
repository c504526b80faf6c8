"""The record of a run: a folder that says what was run, where, and how each round went.

    recipe.toml        the recipe as it was run
    run.json           what ran it and how it ended (RunFacts)
    rounds.jsonl       one line per round, appended as rounds close (RoundResult)
    data.json          examples per worker and class (DataMap); only where a partition is known
    model.safetensors  the last version; only of a simulation that came to its end

An interrupted run has a record too: of the rounds that it closed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet.errors import NotFound, RecordInvalid
from fedfleet.reports.facts import DataMap, RunFacts
from fedfleet.reports.round_result import RoundResult

RECIPE = "recipe.toml"
FACTS = "run.json"
ROUNDS = "rounds.jsonl"
DATA = "data.json"
MODEL = "model.safetensors"
FILES = (RECIPE, FACTS, ROUNDS, DATA, MODEL)
# What reading something else raises: also for deep lists, and for the Infinity of Python's JSON.
_WRONG = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, as reports see it. ``recipe`` is the TOML text."""

    facts: RunFacts
    recipe: str
    rounds: Sequence[RoundResult]
    data: DataMap | None = None


def is_record(folder: Path) -> bool:
    """Whether a folder is a record, whole or not."""
    return (folder / FACTS).is_file()


def find_records(folder: Path) -> list[Path]:
    """The folder, where it is a record; else those of its folders that are.

    Raises:
        NotFound: neither.
    """
    if is_record(folder):
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{FACTS}"))
    if not found:
        raise NotFound(f"{folder}: holds no record of a run ({FACTS})")
    return found


def read_record(folder: Path) -> Record:
    """Read a record; a last line that was cut off is left out.

    Raises:
        NotFound: the folder is no record.
        RecordInvalid: a file is missing, or is not what was written; the text names it.
    """
    if not is_record(folder):
        raise NotFound(f"{folder}: holds no record of a run ({FACTS})")
    facts = _parsed(RunFacts.from_json, _text(folder / FACTS), folder / FACTS)
    lines = _text(folder / ROUNDS).split("\n")[:-1]  # what follows the last line's end was cut off
    rounds = [
        _parsed(RoundResult.from_json, line, f"{folder / ROUNDS}, line {number}")
        for number, line in enumerate(lines, 1)
    ]
    data = None
    if (folder / DATA).is_file():
        data = _parsed(DataMap.from_json, _text(folder / DATA), folder / DATA)
    record = Record(facts=facts, recipe=_text(folder / RECIPE), rounds=rounds, data=data)
    _check(record, folder)
    return record


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecordInvalid(f"{path}: is missing in the record") from error
    except OSError as error:
        raise RecordInvalid(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecordInvalid(f"{path}: is not UTF-8 text") from error


def _parsed(parse: Any, text: str, where: object) -> Any:
    """Parse JSON into one of the classes above. Any: whichever it is."""
    try:
        return parse(json.loads(text))
    except _WRONG as error:
        raise RecordInvalid(
            f"{where}: is not what FedFleet wrote: {type(error).__name__}: {error}"
        ) from error


def _check(record: Record, folder: Path) -> None:
    """Refuse parts that do not belong together."""
    classes = len(record.facts.classes)
    numbers = [item.round for item in record.rounds]
    if numbers != sorted(set(numbers)):
        raise RecordInvalid(f"{folder / ROUNDS}: its rounds are not in order")
    for item in record.rounds:
        for one in (item.evaluation, *item.worker_evaluations.values()):
            if one is not None and len(one.class_samples) != classes:
                raise RecordInvalid(
                    f"{folder / ROUNDS}: round {item.round} was evaluated over "
                    f"{len(one.class_samples)} classes, {FACTS} names {classes}"
                )
    if record.data is not None:
        widths = {len(row) for row in record.data.per_class}
        groups = len(record.data.groups or ()) or classes
        if widths != {classes} or groups != classes:
            raise RecordInvalid(f"{folder / DATA}: is of other classes than {FACTS}")
