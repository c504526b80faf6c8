"""Reads the JSON files that LEAF's scripts write for its text task (Caldas et al. 2018,
arXiv:1812.01097): for each user sequences ``x`` and the character ``y`` that follows each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedfleet.data.text import UNKNOWN, Passages, encode
from fedfleet.errors import DataInvalid


def read_leaf(paths: list[Path], length: int) -> dict[str, Passages]:
    """The examples of each user, by name.

    Raises:
        DataInvalid: a file is not LEAF's, or holds sequences of another length.
    """
    found: dict[str, Passages] = {}
    for path in paths:
        shown = f"{path.parent.name}/{path.name}"
        for user, (sequences, following) in _users(path, shown).items():
            if user in found:
                raise DataInvalid(f"{shown}: user {user!r} stands in another file too")
            if any(len(sequence) != length for sequence in sequences):
                raise DataInvalid(
                    f"{shown}: user {user!r} has a sequence that is not {length} characters long; "
                    "set data.sequence to what the files hold"
                )
            found[user] = _passages(sequences, following, length)
    return found


def _users(path: Path, shown: str) -> dict[str, tuple[list[str], list[str]]]:
    """The texts of each user, checked to be as many sequences as single characters."""
    try:
        document: Any = json.loads(path.read_bytes())
        users = {
            str(name): ([str(x) for x in data["x"]], [str(y) for y in data["y"]])
            for name, data in document["user_data"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataInvalid(
            f'{shown} is not a file of LEAF: it needs "user_data" with "x" and "y" for each user',
            detail=repr(error),
        ) from error
    for name, (sequences, following) in users.items():
        if len(sequences) != len(following) or any(len(y) != 1 for y in following):
            raise DataInvalid(f"{shown}: user {name!r} needs one character in y for each x")
    return users


def _passages(sequences: list[str], following: list[str], length: int) -> Passages:
    labels = encode("".join(following)).astype(np.int64)
    starts = np.arange(len(sequences), dtype=np.int64) * length
    return Passages(encode("".join(sequences)), starts, labels).part(
        np.flatnonzero(labels < UNKNOWN)
    )
