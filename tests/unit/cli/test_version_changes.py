from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedfleet.cli.version_changes import (
    class_changes,
    field_changes,
    score_changes,
    tensor_changes,
)

VECTORS = hnp.arrays(np.float32, 6, elements=st.floats(-100, 100, width=32, allow_subnormal=False))
TABLES = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def test_fields_of_tables_are_compared_one_by_one() -> None:
    before = {"card": {"classes": ["a"], "options": {"width": 1.0}}, "round": 1, "gone": 2}
    after = {"card": {"classes": ["a"], "options": {"width": 0.5}}, "round": 1, "new": None}

    found = [(one.name, one.a, one.b) for one in field_changes(before, after)]

    assert found == [("card.options.width", 1.0, 0.5), ("gone", 2, None)]


@given(st.dictionaries(st.sampled_from("abc"), TABLES))
def test_nothing_changes_between_a_record_and_itself(record: dict[str, object]) -> None:
    assert field_changes(record, record) == []


def test_scores_tell_what_one_side_alone_has() -> None:
    found = score_changes({"accuracy": 0.5, "loss": None}, {"accuracy": 0.75, "map50": 0.25})

    assert [one.to_json() for one in found] == [
        {"name": "accuracy", "a": 0.5, "b": 0.75, "samples": None, "change": 0.25},
        {"name": "map50", "a": None, "b": 0.25, "samples": None, "change": None},
    ]


def test_classes_come_by_the_size_of_their_change() -> None:
    before = {"class_samples": [10, 10, 10, 0], "class_correct": [5, 5, 5, 0]}
    after = {"class_samples": [10, 10, 20, 0], "class_correct": [6, 1, 10, 0]}

    classes = ["cat", "dog", "eel", "fox"]
    found = class_changes(classes, before, classes, after)

    assert [one.name for one in found] == ["dog", "cat", "eel"]
    assert found[0].change == pytest.approx(-0.4)
    assert [one.samples for one in found] == [10, 10, 20]


def test_classes_of_versions_that_nobody_evaluated_are_not_compared() -> None:
    measured = {"class_samples": [4, 4], "class_correct": [1, 2]}

    names = ["a", "b"]
    assert class_changes(names, {}, names, {}) == []
    assert [one.change for one in class_changes(names, {}, names, measured)] == [None, None]


def test_classes_in_another_order_are_compared_by_their_names() -> None:
    before = {"class_samples": [10, 20, 30], "class_correct": [0, 20, 15]}
    after = {"class_samples": [40, 20, 10], "class_correct": [40, 5, 0]}

    found = class_changes(["cat", "dog", "eel"], before, ["fox", "dog", "cat"], after)

    assert [(one.name, one.a, one.b, one.samples) for one in found] == [
        ("dog", 1.0, 0.25, 20),
        ("fox", None, 1.0, 40),
        ("cat", 0.0, 0.0, 10),
        ("eel", 0.5, None, None),
    ]


@given(VECTORS, VECTORS)
def test_distance_of_tensors_is_that_of_their_values(a: np.ndarray, b: np.ndarray) -> None:
    (found,) = tensor_changes({"w": a.reshape(2, 3)}, {"w": b.reshape(2, 3)})

    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    assert found.elements == 6
    assert found.l2 == pytest.approx(math.dist(wide_a, wide_b))
    assert found.largest == pytest.approx(np.abs(wide_b - wide_a).max())
    assert (found.relative is None) == (not a.any())
    assert (found.cosine is None) == (not (a.any() and b.any()))
    assert found.cosine is None or -1.0 <= found.cosine <= 1.0


@given(VECTORS.filter(lambda v: bool(v.any())), st.floats(0.1, 10.0))
def test_cosine_asks_for_the_direction_alone(a: np.ndarray, factor: float) -> None:
    (found,) = tensor_changes({"w": a}, {"w": a * np.float32(factor)})

    assert found.cosine == pytest.approx(1.0)


def test_tensors_come_by_their_relative_change_and_those_without_a_pair_last() -> None:
    ones = np.ones(4, np.float32)
    before = {"still": ones, "little": ones, "much": ones, "reshaped": ones, "gone": ones}
    after = {"still": ones, "little": ones * 1.1, "much": ones * 3, "reshaped": ones.reshape(2, 2)}

    found = tensor_changes({**before, "woken": 0 * ones}, {**after, "woken": ones, "counted": ones})

    names = [one.name for one in found]
    assert names[:4] == ["woken", "much", "little", "still"]
    assert {one.name: one.note for one in found[4:]} == {
        "reshaped": "of another shape",
        "gone": "on one side only",
        "counted": "on one side only",
    }


def test_counters_and_scalars_have_a_distance_too() -> None:
    found = tensor_changes({"n": np.array(3, np.int64)}, {"n": np.array(7, np.int64)})

    assert (found[0].l2, found[0].largest, found[0].elements) == (4.0, 4.0, 1)
