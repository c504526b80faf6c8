from __future__ import annotations

import pytest

from fedfleet.errors import RecordInvalid
from fedfleet.reports.settings import differing, flat_settings, identity, short_names, shown_value


def test_flat_settings_have_dotted_names() -> None:
    text = 'seed = 1\n[a]\nx = 2\n[a.b]\ny = [1, "z"]\n'

    assert flat_settings(text) == {"seed": 1, "a.x": 2, "a.b.y": [1, "z"]}


def test_flat_settings_of_no_toml_are_invalid() -> None:
    with pytest.raises(RecordInvalid, match="is not TOML"):
        flat_settings("seed =")


def test_differing_names_what_is_not_the_same_everywhere() -> None:
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 1}]) == ["b", "c"]
    assert differing([{"a": 1}]) == []
    assert differing([{"a": 1}, {"a": True}]) == ["a"]


def test_short_names_are_last_parts_where_those_are_unique() -> None:
    assert short_names(["training.lr", "a.mu", "b.mu", "seed"]) == {
        "training.lr": "lr",
        "a.mu": "a.mu",
        "b.mu": "b.mu",
        "seed": "seed",
    }


def test_shown_value_is_on_one_line() -> None:
    assert shown_value("a\nb") == r"a\nb"
    assert shown_value([1, "x"]) == '[1, "x"]'
    assert len({identity(value) for value in (1, 1.0, True, "1")}) == 4
