from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import FedFleetError, InvalidInput, LimitExceeded
from fedfleet.types import Kind, ParamSpec, Schema
from fedfleet.wire.limits import MAX_DIMENSIONS, MAX_TENSORS
from fedfleet.wire.strict_json import MAX_DEPTH, read_json, read_object, read_schema

SCHEMAS = st.lists(
    st.builds(
        ParamSpec,
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=9),
        st.lists(st.integers(0, 9), max_size=4).map(tuple),
        st.sampled_from(Kind),
    ),
    max_size=6,
    unique_by=lambda param: param.name,
).map(lambda params: Schema(tuple(params)))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(VALUES)
def test_json_of_finite_values_is_read_as_it_was_written(value: object) -> None:
    assert read_json("x", json.dumps(value)) == value


@given(SCHEMAS)
def test_schema_is_read_as_it_was_written(schema: Schema) -> None:
    assert read_schema(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[-Infinity]", "1e999", "-1e999", "1" * 5000, "[" * 100_000, "\ud800"]
)
def test_json_that_nothing_can_use_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(InvalidInput, match="metrics") as caught:
        read_json("metrics", text)

    assert len(caught.value.message) <= 300


def test_depth_that_is_allowed_can_be_written_again() -> None:
    text = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH

    assert json.dumps(read_json("metrics", text), separators=(",", ":")) == text
    for deeper in (f"[{text}]", f'{{"a":{text}}}', "[" * 500 + "]" * 500):
        with pytest.raises(InvalidInput, match="more than 32 levels"):
            read_json("metrics", deeper)


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\ud800": 1}', '[{"a": ["\\udfff"]}]'])
def test_text_that_no_message_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="metrics"):
        read_json("metrics", text)


def test_json_is_bounded_before_it_is_parsed() -> None:
    with pytest.raises(LimitExceeded, match="11 bytes"):
        read_json("card", '"123456789"', 10)

    assert read_json("card", '"12345678"', 10) == "12345678"


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"'])
def test_object_is_no_other_value(text: str) -> None:
    with pytest.raises(InvalidInput, match="object"):
        read_object("card", text)


ROW = {"name": "w", "shape": [2, 3], "kind": "trainable"}


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (None, InvalidInput),
        ({}, InvalidInput),
        ([1], InvalidInput),
        ([{**ROW, "more": 1}], InvalidInput),
        ([{"name": "w", "shape": []}], InvalidInput),
        ([ROW, ROW], InvalidInput),
        ([{**ROW, "name": ""}], InvalidInput),
        ([{**ROW, "name": 7}], InvalidInput),
        ([{**ROW, "name": "n" * 513}], LimitExceeded),
        ([{**ROW, "shape": [True]}], InvalidInput),
        ([{**ROW, "shape": [-1]}], InvalidInput),
        ([{**ROW, "shape": [1.0]}], InvalidInput),
        ([{**ROW, "shape": "23"}], InvalidInput),
        ([{**ROW, "shape": [1] * (MAX_DIMENSIONS + 1)}], LimitExceeded),
        ([{**ROW, "shape": [1 << 40]}], LimitExceeded),
        ([{**ROW, "kind": "secret"}], InvalidInput),
        ([{**ROW, "kind": []}], InvalidInput),
        ([{**ROW, "name": str(n)} for n in range(MAX_TENSORS + 1)], LimitExceeded),
    ],
)
def test_schema_of_another_form_is_refused(rows: object, error: type[FedFleetError]) -> None:
    with pytest.raises(error) as caught:
        read_schema(rows)

    assert len(caught.value.message) < 200
