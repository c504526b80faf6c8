"""The classes of a worker, as metrics and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.algorithms.present_classes import classes_as_metrics, classes_in_metrics
from fedfleet.errors import UpdateInvalid


@given(labels=st.sets(st.integers(0, 2000), min_size=1))
def test_classes_come_back_as_they_were(labels: set[int]) -> None:
    metrics = classes_as_metrics(labels)

    assert classes_in_metrics({**metrics, "train_loss": 1.0}) == tuple(sorted(labels))


def test_a_worker_that_says_nothing_says_nothing() -> None:
    assert classes_in_metrics({"train_loss": 1.0}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("0", -1.0),
        ("0", 0.5),
        ("0", 2.0**48),
        ("0", float("nan")),
        ("x", 1.0),
        ("9999", 1.0),
        ("00", 1.0),
        ("\u0661", 1.0),
    ],
)
def test_what_no_worker_writes_is_refused(name: str, value: float) -> None:
    with pytest.raises(UpdateInvalid, match="which classes"):
        classes_in_metrics({f"algorithm.classes.{name}": value})
