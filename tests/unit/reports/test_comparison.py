from __future__ import annotations

import pytest
from records import record

from fedfleet.reports.comparison import compare, duration_text, size_text
from fedfleet.reports.groups import group_records


def row(table, number: int) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[number], strict=True))


def test_comparison_says_what_each_run_came_to() -> None:
    runs = [record((40, 60, 80), virtual=True), record((30, 50), lr=0.2, outcome="failed")]
    table = compare(group_records(runs), 0.6)

    assert row(table, 0) == {
        "run": "lr = 0.1",
        "outcome": "completed",
        "rounds": "3",
        "final accuracy": "80.0 %",
        "best accuracy": "80.0 %",
        "in round": "3",
        "final loss": "0.667",
        "moved": "450 B",
        "time": "30.0 s",
        "virtual time": "5 min 00 s",
        "rounds to 60 %": "2",
        "moved to 60 %": "300 B",
        "time to 60 %": "20.0 s",
        "virtual to 60 %": "3 min 20 s",
    }
    assert row(table, 1)["outcome"] == "failed"
    assert row(table, 1)["rounds to 60 %"] == "not reached"
    assert row(table, 1)["virtual time"] == "-"


def test_comparison_gives_mean_and_deviation_over_seeds() -> None:
    runs = [record((40, 60), seed=1), record((40, 80), seed=2), record((90, 40), seed=3)]
    found = row(compare(group_records(runs), 0.75), 0)

    assert found["outcome"] == "3 completed"
    assert found["final accuracy"] == "60.0 ± 20.0 %"
    assert found["rounds"] == "2"  # the same for all
    assert found["rounds to 75 %"] == "1.5 ± 0.7 (2 of 3)"


def test_comparison_without_target_or_virtual_time_leaves_their_columns_out() -> None:
    table = compare(group_records([record(())]), 0.0)

    assert table.columns[-1] == "time"
    assert row(table, 0)["final accuracy"] == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (125, "2 min 05 s"), (7261, "2 h 01 min")],
)
def test_duration_text_has_units_that_fit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (3.02e6, "3.02 MB")]
)
def test_size_text_has_units_that_fit(size: float, text: str) -> None:
    assert size_text(size) == text
