from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedfleet.cli import worker_probe
from fedfleet.training.level_probe import LevelFigures


@pytest.fixture
def recipe(tiny: Path) -> str:
    three = tiny.read_text().replace("lr = 0.1", "lr = 0.1\nepochs = 3")
    tiny.write_text(three + "\n[levels]\nrates = [1.0, 0.5, 0.25]\n")
    return str(tiny)


def figures(level: str, rate: float, samples_per_s: float) -> LevelFigures:
    return LevelFigures(
        level=level,
        rate=rate,
        parameters=9,
        samples_per_s=samples_per_s,
        memory_bytes=1 << 20 if samples_per_s else 0,
    )


def measuring(monkeypatch: pytest.MonkeyPatch, found: Sequence[LevelFigures]) -> None:
    monkeypatch.setattr(worker_probe, "measure_levels", lambda *_, **__: tuple(found))


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e308", "3601", "0", "-1"])
def test_probe_refuses_a_time_that_nobody_waits_for(seconds: str, recipe: str, cli: Any) -> None:
    result = cli("worker", "probe", recipe, "--seconds", seconds)

    assert result.status == 2
    assert "--seconds" in result.err
    assert "Traceback" not in result.err


def test_probe_says_what_its_last_column_is_for(
    recipe: str, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [("a", 1.0), ("b", 0.5), ("c", 0.25)]
    measuring(monkeypatch, [figures(level, rate, 30.0) for level, rate in found])

    table = cli("worker", "probe", recipe, "--samples", "50")
    document = cli("worker", "probe", recipe, "--samples", "50", "--json").document

    assert table.status == 0
    assert "50 examples, 3 epochs" in " ".join(table.out.split())
    assert table.out.count("5 s") == 3
    assert "Not" not in table.out
    assert [one["round_s"] for one in document["levels"]] == [5.0, 5.0, 5.0]


def test_probe_tells_no_time_from_no_memory(
    recipe: str, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, [figures("b", 0.5, 0.0), figures("c", 0.25, 30.0)])
    exhausted = cli("worker", "probe", recipe).out
    measuring(monkeypatch, [figures("c", 0.25, 30.0)])
    slow = cli("worker", "probe", recipe).out

    assert "Not tried: a. They take more memory than b." in " ".join(exhausted.split())
    assert "--seconds" not in exhausted
    assert "Not reached in 20 s: a, b. More --seconds reach more." in " ".join(slow.split())
