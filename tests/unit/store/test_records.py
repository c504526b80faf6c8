"""Records that somebody altered are told as such, whatever they hold."""

from __future__ import annotations

import pytest

from fedfleet.errors import StoreUnavailable
from fedfleet.store.records import from_text, schema_from_text

DAMAGED = ["", "{", "[", "nothing", '"text"', "7", "[" * 100_000, b"\xff"]


@pytest.mark.parametrize("text", [*DAMAGED, "[]", "null", None, 7])
def test_record_that_is_none_is_told_as_damage(text):
    with pytest.raises(StoreUnavailable, match="a record in the store is damaged") as raised:
        from_text(text)
    assert len(raised.value.detail) <= 200


@pytest.mark.parametrize(
    "text", [*DAMAGED, "{}7", "null", "[7]", "[{}]", '[{"name": "w", "shape": [1], "kind": "?"}]']
)
def test_schema_that_is_none_is_told_as_damage(text):
    with pytest.raises(StoreUnavailable, match="a record in the store is damaged"):
        schema_from_text(text)
