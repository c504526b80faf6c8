"""Writes to standard output: one JSON document, or text for people."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

# Wide enough for every table here: a pipe has no width that a line could be cut to.
PIPE_COLUMNS = 160
_ANY_WIDTH = 10_000


def console() -> Console:
    """A console on today's standard output that takes no text for markup."""
    is_terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if is_terminal else PIPE_COLUMNS,
    )


def write_json(document: Any, *, indent: int | None = 2) -> None:
    """Write one document and a line's end. Any: whatever JSON can hold."""
    sys.stdout.write(json.dumps(_finite(document), indent=indent, allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def make_table(title: str, columns: Sequence[str], *, right: Iterable[str] = ()) -> Table:
    """A table.

    Args:
        right: the columns that hold numbers.
    """
    table = Table(title=title or None, title_justify="left", title_style="bold")
    numbers = set(right)
    for column in columns:
        table.add_column(
            column, justify="right" if column in numbers else "left", no_wrap=column in numbers
        )
    return table


def fitting_table(
    out: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[str] = (),
    leave_out: Sequence[str] = (),
) -> Table:
    """A table with its rows, made to fit the console: a number that is cut says nothing.

    Args:
        right: as of ``make_table``.
        leave_out: columns to do without where there is no room, the first ones first.
    """
    anywhere = out.options.update(max_width=_ANY_WIDTH)
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    for count in range(len(leave_out) + 1):
        kept = [column for column in columns if column not in leave_out[:count]]
        table = make_table(title, kept, right=right)
        for row in cells:
            table.add_row(*(row[column] for column in kept))
        if Measurement.get(out, anywhere, table).maximum <= out.width:
            break
    return table


def plain(text: str) -> str:
    """The text on one line, without what could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def percent(ratio: float | None) -> str:
    """A share as it stands in a table."""
    return "-" if ratio is None or math.isnan(ratio) else f"{100 * ratio:.1f} %"


def number(value: float | None) -> str:
    """A number as it stands in a table."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def local_time(at_s: float) -> str:
    """A time in seconds since the epoch as the clock here shows it."""
    if not at_s:
        return "-"
    return datetime.fromtimestamp(at_s, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(at_s: float) -> str:
    """How long ago, in the largest unit that says something."""
    if not at_s:
        return "-"
    passed_s = max(0.0, time.time() - at_s)
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed_s >= 2 * seconds:
            return f"{passed_s / seconds:.0f} {unit} ago"
    return f"{passed_s:.0f} s ago"


def size(size_bytes: int) -> str:
    """A number of bytes in the unit that fits."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:  # from there on three digits would be 1e+03
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


_BLOCKS = " ▁▂▃▄▅▆▇█"
_LETTERS = " .:-=+*%#"


def bars(values: Sequence[float], *, most: float, encoding: str) -> str:
    """One character per value, the taller the larger; only zero is blank."""
    shades = _BLOCKS if encoding.lower().startswith("utf") else _LETTERS
    steps = len(shades) - 1
    return "".join(
        shades[min(steps, math.ceil(steps * value / most))] if value > 0 and most > 0 else shades[0]
        for value in values
    )
