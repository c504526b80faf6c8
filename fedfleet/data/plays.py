"""Reads plays as plain text: who says what.

A speech opens with a line ``NAME:`` at the start of the file or after an empty line, and ends where
the next one opens. All that a role says is one text.
"""

from __future__ import annotations

import re
from pathlib import Path

from fedfleet.errors import DataInvalid

_OPENS = re.compile(r"(?:\A|(?<=\n\n))([^\n:]{1,80}):[ \t]*(?:\n|\Z)")
# LEAF takes out the spaces by which verses are indented.
_SPACES = re.compile(r"  +")


def read_plays(paths: list[Path]) -> dict[str, str]:
    """The text of each role, by name. Of several files each is a play, whose name goes before.

    Raises:
        DataInvalid: a file is not UTF-8, or no line opens a speech.
    """
    roles: dict[str, list[str]] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataInvalid(
                f"{path.name} cannot be read as UTF-8 text", detail=repr(error)
            ) from error
        _, *parts = _OPENS.split(_SPACES.sub(" ", text))
        if not parts:
            raise DataInvalid(f'{path.name}: no line "NAME:" opens a speech')
        play = f"{path.stem}: " if len(paths) > 1 else ""
        for name, speech in zip(parts[::2], parts[1::2], strict=True):
            roles.setdefault(play + name.strip(), []).append(speech.strip("\n"))
    return {name: "\n".join(speeches) for name, speeches in roles.items()}
