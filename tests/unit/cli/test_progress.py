from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from fedfleet.cli.progress import progress, working


def console(*, terminal: bool) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=100)


def written(out: Console) -> str:
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


@pytest.mark.parametrize(("terminal", "shown"), [(False, True), (True, False)])
def test_nothing_is_shown_to_a_pipe_or_a_program(terminal: bool, shown: bool) -> None:
    out = console(terminal=terminal)

    with working(out, "reading", shown=shown):
        pass
    with progress(out, shown=shown) as bar:
        bar.update(bar.add_task("rounds", total=4, result="starting"), completed=2)

    assert written(out) == ""


def test_progress_shows_how_far_it_is_and_what_came_of_it() -> None:
    out = console(terminal=True)

    with progress(out) as bar:
        bar.update(bar.add_task("rounds", total=4, result=""), completed=3, result="loss 0.5")

    assert "rounds" in written(out)
    assert "3/4" in written(out)
    assert "loss 0.5" in written(out)


def test_working_is_shown_and_wiped_away() -> None:
    out = console(terminal=True)

    with working(out, "reading the runs"):
        pass

    assert "reading the runs" in written(out)
    assert written(out).rstrip("\r").endswith("\x1b[2K")
