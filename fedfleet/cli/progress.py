"""Shows that something goes on: on a terminal only, and gone when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


def progress(out: Console, *, shown: bool = True) -> Progress:
    """A bar with a text that each task sets as its field ``result``; use as a context manager.

    Args:
        shown: False where the output is for a program.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[result]}"),
        TimeElapsedColumn(),
        console=out,
        disable=not (shown and out.is_terminal),
    )


@contextmanager
def working(out: Console, text: str, *, shown: bool = True) -> Iterator[None]:
    """Show a text and the seconds that have passed while something of unknown length goes on."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=out,
        transient=True,
        disable=not (shown and out.is_terminal),
    ) as spinner:
        spinner.add_task(text, total=None)
        yield
