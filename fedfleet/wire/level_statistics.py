"""The running statistics of a version's narrower levels, inside its safetensors file.

The file's ``__metadata__`` maps texts to texts, and whoever loads tensors does not see it. Under
the key ``fedfleet.levels`` stands a JSON object: for each level its statistics as little-endian
float32 in base64. All under one key, since several would have no fixed order in the file.
"""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedfleet.errors import InvalidInput, LimitExceeded, SchemaMismatch
from fedfleet.types import FloatVector, Kind, Schema
from fedfleet.wire.limits import MAX_LEVEL_STATISTICS, MAX_LEVELS, check_count
from fedfleet.wire.strict_json import read_object

KEY = "fedfleet.levels"
# The whole width's statistics are tensors of the file.
_NARROW = string.ascii_lowercase[1:MAX_LEVELS]
# Characters: of a value, 5 1/3 in base64; beside the values of a level.
_VALUE_TEXT, _LEVEL_TEXT = 6, 64
_MOST_TEXT = _VALUE_TEXT * MAX_LEVEL_STATISTICS + _LEVEL_TEXT * MAX_LEVELS
_LENGTH = 8  # bytes in which a safetensors file says how long its header is


def to_metadata(levels: Mapping[str, FloatVector]) -> dict[str, str] | None:
    """What goes into a file's ``__metadata__``; None where there is nothing.

    Args:
        levels: by level, its statistics: float32, shape (S_level,).
    """
    if not levels:
        return None
    texts = {
        level: base64.b64encode(vector.astype("<f4").tobytes()).decode()
        for level, vector in levels.items()
    }
    return {KEY: json.dumps(texts, sort_keys=True, separators=(",", ":"))}


def read_level_statistics(data: bytes) -> dict[str, FloatVector]:
    """The statistics of the narrower levels that a safetensors file holds; none where it has none.

    Raises:
        SchemaMismatch: what it holds under the key is not what ``to_metadata`` writes.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    # Most files have none, and the header of a large model is long. Nobody writes it otherwise.
    if data.find(b'"%s"' % KEY.encode(), _LENGTH, end) < 0:
        return {}
    try:
        header = read_object("header", data[_LENGTH:end], end)
        metadata = header.get("__metadata__")
        if not isinstance(metadata, dict) or KEY not in metadata:
            return {}
        levels = read_object(KEY, _text(metadata[KEY]), _MOST_TEXT)
        found = {level: _vector(level, text) for level, text in levels.items()}
        values = sum(vector.size for vector in found.values())
        check_count("statistics of levels", values, MAX_LEVEL_STATISTICS)
    except (InvalidInput, LimitExceeded) as error:
        raise SchemaMismatch(
            f"the file's statistics of narrower levels cannot be used: {error.message}"
        ) from error
    return found


def check_level_statistics(schema: Schema, data: bytes) -> None:
    """Raises SchemaMismatch: as ``read_level_statistics``, or no level has as many."""
    most = schema.elements(Kind.STATISTIC)
    for level, vector in read_level_statistics(data).items():
        if not vector.size <= most:
            raise SchemaMismatch(
                f"the file has {vector.size} statistics of level {level}, the whole model {most}"
            )


def room_for_levels(schema: Schema) -> int:
    """How many bytes of a version's file the statistics of its levels may take at most."""
    values = min(MAX_LEVEL_STATISTICS, schema.elements(Kind.STATISTIC) * len(_NARROW))
    return _VALUE_TEXT * values + _LEVEL_TEXT * MAX_LEVELS if values else 0


def _text(value: Any) -> str:  # Any: of a JSON object that anybody may have written
    if not isinstance(value, str):
        raise InvalidInput("must be a text")
    return value


def _vector(level: str, value: Any) -> FloatVector:  # Any: as for ``_text``
    if len(level) != 1 or level not in _NARROW:
        raise InvalidInput(f"level {level[:16]!a}: must be a letter from b to {_NARROW[-1]}")
    try:
        data = base64.b64decode(_text(value), validate=True)
        vector = np.frombuffer(data, "<f4").astype(np.float32)
    except ValueError as error:
        raise InvalidInput(f"level {level}: no float32 in base64") from error
    if not np.isfinite(vector).all():
        raise InvalidInput(f"level {level}: a value is not finite")
    return vector
