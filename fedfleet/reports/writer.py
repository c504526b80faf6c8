"""Writes a record while its run goes on, so that an interrupted run leaves what it came to."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedfleet.errors import AlreadyExists
from fedfleet.reports.facts import DataMap, RunFacts
from fedfleet.reports.record import DATA, FACTS, MODEL, RECIPE, ROUNDS
from fedfleet.reports.round_result import RoundResult
from fedfleet.types import Json


class RecordWriter:
    """The record of one run that goes on.

    Args:
        folder: made here.
        recipe: the TOML text.
        replaces: a record that the folder holds is written anew.
        before: what the record holds until a first round is added, for a run that goes on: its
            rounds are not lost where that fails.

    Raises:
        AlreadyExists: the folder holds a record.
        OSError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        facts: RunFacts,
        recipe: str,
        data: DataMap | None = None,
        *,
        replaces: bool = False,
        before: Sequence[RoundResult] = (),
    ) -> None:
        if (folder / FACTS).exists() and not replaces:
            raise AlreadyExists(f"{folder}: holds the record of a run; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._facts = facts
        self._begun = False
        if not before:
            (folder / FACTS).unlink(missing_ok=True)
        _write(folder / RECIPE, recipe)
        _write(folder / ROUNDS, "".join(map(_line, before)))
        if data is not None:
            _write(folder / DATA, _text(data.to_json()))
        self._write_facts()  # last: it makes the folder a record

    def add(self, result: RoundResult) -> None:
        """Append a round; it is in the file when this returns."""
        if not self._begun:
            _write(self._folder / ROUNDS, _line(result))
            self._begun = True
            return
        with (self._folder / ROUNDS).open("a", encoding="utf-8") as file:
            file.write(_line(result))

    def finish(
        self, outcome: str, code: str = "", reason: str = "", model: bytes | None = None
    ) -> None:
        """Write how it ended, and the last version as a safetensors file."""
        if model is not None:
            _write(self._folder / MODEL, model)
        self._facts = replace(
            self._facts, outcome=outcome, code=code, reason=reason, ended_at_s=time.time()
        )
        self._write_facts()

    def _write_facts(self) -> None:
        _write(self._folder / FACTS, json.dumps(self._facts.to_json(), indent=2) + "\n")


def _line(result: RoundResult) -> str:
    document = result.to_json()
    document["metrics"] = {
        name: value if math.isfinite(value) else None for name, value in result.metrics.items()
    }
    return _text(document)


def _text(document: Json) -> str:
    """One line. A number that JSON does not know would make the file unreadable elsewhere."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n"


def _write(path: Path, data: str | bytes) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(partial, path)  # noqa: PTH105 - the name says what it does
