from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import RecipeInvalid
from fedfleet.tables import describe, parse_table, printable, shown, suggest


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int
    ratio: float = 0.5
    on: bool = False
    mode: Literal["slow", "fast"] = "slow"
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None
    extra: Any = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count = {self.count}: must be 1 or more")


def refused(table: dict[str, Any]) -> str:
    with pytest.raises(RecipeInvalid) as caught:
        parse_table(Inner, table, "inner")
    assert caught.value.code == "RECIPE_INVALID"
    assert "\n" not in caught.value.message
    return caught.value.message


def test_table_is_converted_field_by_field() -> None:
    table = {"count": 2, "ratio": 1, "mode": "fast", "sizes": [3, 4], "limit": 5, "on": True}

    parsed = parse_table(Inner, table, "inner")

    assert parsed == Inner(count=2, ratio=1.0, mode="fast", sizes=(3, 4), limit=5, on=True)
    assert type(parsed.ratio) is float


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"count": 1, "raito": 1.0}, "inner.raito: unknown field; did you mean 'ratio'? allowed: "),
        ({}, "inner.count: missing; it must be a whole number"),
        ({"count": 0}, "inner.count = 0: must be 1 or more"),
        ({"count": 1.0}, "inner.count = 1.0: must be a whole number"),
        ({"count": True}, "inner.count = true: must be a whole number"),
        ({"count": "3"}, 'inner.count = "3": must be a whole number'),
        ({"count": 1 << 63}, "inner.count = a number of more than 63 bits: must be from -2^63"),
        ({"count": 1, "ratio": True}, "inner.ratio = true: must be a number"),
        ({"count": 1, "ratio": 10**400}, "inner.ratio = a number of more than 63 bits"),
        ({"count": 1, "on": 1}, "inner.on = 1: must be true or false"),
        ({"count": 1, "mode": "warp"}, 'inner.mode = "warp": must be one of "slow", "fast"'),
        ({"count": 1, "mode": ["slow"]}, "inner.mode = a list: must be one of"),
        ({"count": 1, "sizes": 3}, "inner.sizes = 3: must be a list, each a whole number"),
        ({"count": 1, "sizes": [1, "2"]}, 'inner.sizes = "2": must be a whole number'),
        ({"count": 1, "limit": "a\nb"}, 'inner.limit = "a\\nb": must be a whole number'),
        ({"count": date(2024, 1, 1)}, "inner.count = 2024-01-01: must be a whole number"),
        ({"count": 1, "a\nb": 1}, "inner.a\\nb: unknown field"),
    ],
)
def test_table_is_refused_with_field_value_and_choices(table: dict[str, Any], text: str) -> None:
    assert refused(table).startswith(text)


def test_table_of_plugin_options_is_taken_as_it_is() -> None:
    assert parse_table(Inner, {"count": 1, "extra": {"a": [1]}}, "inner").extra == {"a": [1]}


@given(st.text())
def test_printable_gives_one_short_line(name: str) -> None:
    plain = printable(name)

    assert plain.isprintable()
    assert len(plain) <= 83


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_like)
def test_shown_gives_one_short_line(value: object) -> None:
    assert len(shown(value)) <= 90
    assert "\n" not in shown(value)


def test_shown_does_not_write_out_a_number_that_python_refuses_to_write() -> None:
    assert shown(1 << 100_000) == "a number of more than 63 bits"


@given(st.dictionaries(st.sampled_from(["count", "ratio", "mode", "sizes", "x"]), json_like))
def test_table_of_junk_is_taken_or_refused_in_one_line(table: dict[str, Any]) -> None:
    try:
        taken = parse_table(Inner, table, "inner")
    except RecipeInvalid:
        assert refused(table).startswith("inner.")
    else:
        assert taken.count >= 1


def test_suggest_without_a_near_name_lists_what_is_allowed() -> None:
    assert suggest("zzz", ["b", "a"]) == "allowed: a, b"
    assert suggest("zzz", []) == "allowed: nothing"


def test_describe_says_what_a_union_takes() -> None:
    assert describe(int | None) == "a whole number"
    assert describe(dict) == "a table"
