from __future__ import annotations

import json
import math
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedfleet.cli.output import (
    ago,
    bars,
    fitting_table,
    local_time,
    number,
    percent,
    plain,
    size,
    write_json,
)

VALUES = st.lists(st.integers(0, 10**6), min_size=1, max_size=30)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@given(values=VALUES)
def test_bars_grow_with_the_values_and_only_zero_is_blank(encoding: str, values: list[int]) -> None:
    shades = bars(range(9), most=8, encoding=encoding)

    drawn = bars(values, most=max(values), encoding=encoding)

    assert len(drawn) == len(values)
    assert [char == " " for char in drawn] == [value == 0 for value in values]
    order = sorted(range(len(values)), key=values.__getitem__)
    heights = [shades.index(drawn[place]) for place in order]
    assert heights == sorted(heights)
    drawn.encode(encoding)


@pytest.mark.parametrize(
    ("width", "kept"), [(19, "a b c"), (18, "a c"), (13, "a c"), (12, "c"), (1, "c")]
)
def test_fitting_table_leaves_columns_out_in_order(width: int, kept: str) -> None:
    out = Console(file=StringIO(), width=width)

    # A column is three wider than its cells, the table one more.
    rows = [["aaa", "bbb", "ccc"]]
    table = fitting_table(out, "", "abc", rows, right="abc", leave_out="ba")

    assert [column.header for column in table.columns] == kept.split()
    assert [[*column.cells] for column in table.columns] == [[3 * name] for name in kept.split()]


def test_write_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"loss": math.nan, "rows": [math.inf, 1.5], "inner": {"x": (-math.inf,)}})

    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document == {"loss": None, "rows": [None, 1.5], "inner": {"x": [None]}}


def test_plain_takes_out_what_steers_a_terminal() -> None:
    assert plain("a\x1b[31mb\nc\x07\u202e") == "a [31mb c  "


def test_numbers_in_tables() -> None:
    assert percent(0.98765) == "98.8 %"
    assert percent(None) == percent(math.nan) == number(None) == number(math.nan) == "-"
    assert number(0.123456) == "0.1235"
    sizes = (0, 999, 1000, 762_000, 999_499, 999_501, 3 * 10**9, 5 * 10**12)
    assert [size(n) for n in sizes] == [
        *("0 B", "999 B", "1 kB", "762 kB", "999 kB", "1 MB", "3 GB", "5 TB")
    ]


def test_times_never_known_are_a_dash() -> None:
    assert ago(0.0) == local_time(0.0) == "-"
