"""Runs ``fedfleet simulate`` as a user would, from the command to its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from record import ROOT


@dataclass(frozen=True)
class Ran:
    """A finished command.

    Args:
        seconds: from its start to its end.
        accuracies: of each version that was evaluated, on the test split.
    """

    seconds: float
    accuracies: list[float]

    @property
    def accuracy(self) -> float:
        """Of the last version."""
        return self.accuracies[-1]


def data_dir() -> Path:
    """Where the data sets are: FEDFLEET_DATA_DIR, or ../shared/data beside the checkout."""
    return Path(os.environ.get("FEDFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))


def run(recipe: Path, options: Sequence[str]) -> Ran:
    """Simulate a recipe.

    Raises:
        SystemExit: the run did not complete.
    """
    command = [str(Path(sys.executable).parent / "fedfleet"), "simulate", str(recipe), "--json"]
    start_s = time.monotonic()
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start_s
    if ran.returncode != 0:
        raise SystemExit(f"fedfleet simulate failed: {ran.stderr[-1000:]}")
    evaluations = [one["evaluation"] for one in json.loads(ran.stdout)["round_results"]]
    return Ran(seconds, [one["accuracy"] for one in evaluations if one])
