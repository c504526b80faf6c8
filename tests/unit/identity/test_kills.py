"""Keys and certificates outlive SIGKILL at any step of their making."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from unit.identity import kills


def run(mode: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, kills.__file__, mode, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_first_start_killed_at_any_step_leaves_a_folder_that_opens(tmp_path: Path) -> None:
    starts = run("creation", tmp_path)

    assert len(starts) > 60
    assert starts[0]["left"] == []
    # Each file was the last one that a kill left, and what was left stayed.
    assert len({tuple(start["left"]) for start in starts}) >= 9
    for start in starts:
        assert start["kept"], start
        assert start["is_one"], start
        assert start["operator"] == "operator/local", start
        assert not start["partial"], start


def test_replacement_killed_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found = run("replacement", tmp_path)

    assert len(found) > 6
    assert [name for name, _ in groupby(found)] == ["old", "new"]


def test_replacement_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    found = run("interruption", tmp_path)

    assert len(found) == kills.INTERRUPTIONS
    assert set(found) == {"old", "new"}
