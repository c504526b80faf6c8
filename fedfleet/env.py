"""Reads settings from a mapping of environment variables, with errors that say what to set."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from fedfleet.errors import SettingInvalid

T = TypeVar("T")
PREFIX = "FEDFLEET_"
# How like a setting's name another must be to be taken for a slip of the pen. The services' own
# names are less alike than that, and one environment may hold the settings of all.
_ALIKE = 0.93
_WIDTH = 100


def setting(help: str, *, default: Any = MISSING, parse: Callable[[str], Any]) -> Any:
    """A dataclass field that ``read`` fills from the variable FEDFLEET_<FIELD NAME IN CAPITALS>.

    The value is Any because dataclasses type a field's default as the field's own type.
    """
    return field(default=default, metadata={"help": help, "parse": parse})


def variable(item: Field[Any]) -> str:
    """The environment variable of a field."""
    return PREFIX + item.name.upper()


def read(cls: type[T], environ: Mapping[str, str]) -> T:
    """Build a settings dataclass from the environment; an empty variable counts as unset.

    Raises:
        SettingInvalid: a variable is missing or cannot be parsed; the text names it.
    """
    values: dict[str, Any] = {}
    for item in fields(cls):  # type: ignore[arg-type]  # every caller passes a dataclass
        name = variable(item)
        text = environ.get(name, "")
        if text:
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError as error:
                raise SettingInvalid(f"{name}={text!r}: {error}") from error
        elif item.default is MISSING:
            raise SettingInvalid(f"{name} is not set: {item.metadata['help']}")
    return cls(**values)


def misspelt(cls: type, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that are no setting and look like one of these, each with what was meant."""
    known = [variable(item) for item in fields(cls)]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            yield from ((name, near) for near in get_close_matches(name, known, 1, _ALIKE))


def default_text(item: Field[Any]) -> str:
    """The default of a setting as it would stand in the environment."""
    value = item.default
    if value is MISSING:
        return "required"
    if value is None or (not value and not isinstance(value, (bool, int, float))):
        return "not set"
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, (tuple, frozenset)):
        value = ",".join(map(str, sorted(value)))
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def command_line(program: str, what: str, cls: type) -> argparse.ArgumentParser:
    """A parser whose ``--help`` tells the settings, which come from the environment alone.

    Args:
        what: the program does.
    """
    told = [f"{what} Settings are environment variables:", ""]
    for item in fields(cls):
        told.append(f"  {variable(item)} ({default_text(item)})")
        told += textwrap.wrap(
            item.metadata["help"], _WIDTH, initial_indent="      ", subsequent_indent="      "
        )
    return argparse.ArgumentParser(
        program,
        description="\n".join(told).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse_bool(text: str) -> bool:
    """Parse 1 or 0, also written true, false, yes, no, on, off."""
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError("must be 1 or 0")


def parse_port(text: str) -> int:
    """Parse a port number."""
    port = _whole_number(text)
    if not 0 <= port <= 65535:
        raise ValueError("must be a port number from 0 (any free one) to 65535")
    return port


def parse_positive_float(text: str) -> float:
    """Parse a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError("must be a number above 0")
    return value


def parse_positive_int(text: str) -> int:
    """Parse a whole number above 0."""
    value = _whole_number(text)
    if value <= 0:
        raise ValueError("must be a whole number above 0")
    return value


def parse_index(text: str) -> int:
    """Parse a whole number, 0 or more."""
    value = _whole_number(text)
    if value < 0:
        raise ValueError("must be a whole number, 0 or more")
    return value


def parse_path(text: str) -> Path:
    """Parse a path; ~ is the home folder."""
    return Path(text).expanduser()


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def parse_list(text: str) -> tuple[str, ...]:
    """Parse names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
