import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.shard import Examples
from fedfleet.training.split import split_validation


def numbered(labels: list[int]) -> Examples:
    """Examples whose single pixel is their position."""
    count = len(labels)
    return Examples(
        np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), np.array(labels, np.int64)
    )


def positions(examples: Examples) -> list[int]:
    return examples.images.reshape(-1).tolist()


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**63 - 1),
)
def test_split_is_a_partition_that_keeps_order_and_every_class(
    labels: list[int], fraction: float, seed: int
) -> None:
    training, validation = split_validation(numbered(labels), fraction, seed)

    assert sorted(positions(training) + positions(validation)) == list(range(len(labels)))
    assert positions(training) == sorted(positions(training))
    assert positions(validation) == sorted(positions(validation))
    assert set(training.labels) == set(labels)
    assert len(validation) <= len(labels) * fraction + 0.5
    again = split_validation(numbered(labels), fraction, seed)
    assert positions(again[1]) == positions(validation)


@given(seed=st.integers(0, 1000))
def test_split_is_stratified(seed: int) -> None:
    labels = [0] * 50 + [1] * 25 + [2] * 13 + [3] * 12

    _, validation = split_validation(numbered(labels), 0.2, seed)

    assert np.bincount(validation.labels).tolist() == [10, 5, 3, 2]


def test_split_depends_on_the_seed() -> None:
    examples = numbered([0, 1] * 50)

    assert positions(split_validation(examples, 0.2, 1)[1]) != positions(
        split_validation(examples, 0.2, 2)[1]
    )


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_split_holds_nothing_out_where_a_class_would_be_lost(labels: list[int]) -> None:
    training, validation = split_validation(numbered(labels), 0.5, 0)

    assert (len(training), len(validation)) == (len(labels), 0)
